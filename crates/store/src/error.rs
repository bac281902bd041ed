//! What can go wrong between the run and its objects.

mod remedies;

use fisherflow_spectra::SpectraError;
use thiserror::Error;

use crate::error::remedies::{at_fault, cast, did_you_mean, made_good, of_bytes, of_timeout, reads_folder, unmasked};
use crate::{Cause, Claim};

/// A failure that names its object and says what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The URI cannot be a location.
    #[error("\"{uri}\" is not a usable location: {reason}")]
    BadUri {
        /// As given.
        uri: String,
        /// What is wrong with it, and the remedy.
        reason: String,
    },
    /// A key of the S3 options that S3 does not have.
    #[error("unknown S3 option \"{key}\"{}", did_you_mean(.nearest.as_deref()))]
    UnknownOption {
        /// As given.
        key: String,
        /// The nearest key there is.
        nearest: Option<String>,
    },
    /// A key of the S3 options whose URL holds a secret.
    #[error(
        "the S3 option \"{key}\" holds an @, and with it a user or a password: name the host alone, and give the keys as AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY"
    )]
    SecretInUrl {
        /// As given, without its value.
        key: String,
    },
    /// A value of the S3 options that no request can be made of.
    #[error("{} {fault}", .key.to_uppercase())]
    UnusableOption {
        /// As given, without its value.
        key: String,
        /// What is wrong with the value, and the remedy.
        fault: &'static str,
    },
    /// The S3 options contradict one another.
    #[error("the S3 options for {uri} cannot be used")]
    BadOptions {
        /// The bucket.
        uri: String,
        /// What the client says.
        #[source]
        source: Cause,
    },
    /// The I/O threads could not be started.
    #[error(
        "the threads for input and output could not be started: raise the limit on processes and threads (`ulimit -u`, or the container's on pids) or, \
         where there is one, on memory (`ulimit -v`)"
    )]
    Runtime(#[source] std::io::Error),
    /// No object is there.
    #[error("no object matches {uri}: {hint}")]
    NoMatch {
        /// As given.
        uri: String,
        /// What was looked for.
        hint: String,
    },
    /// One object is not there.
    #[error("{uri} does not exist")]
    NotFound {
        /// The object.
        uri: String,
    },
    /// The store does not let us.
    #[error(
        "{uri} may not be {action}: check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION) and what they permit, or the permissions of the file"
    )]
    Denied {
        /// The object.
        uri: String,
        /// `read`, `written`, ...
        action: &'static str,
        /// What the store says.
        #[source]
        source: Cause,
    },
    /// There are no credentials.
    #[error(
        "no credentials for {uri}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a web identity or instance role), AWS_SHARED_CREDENTIALS_FILE (with AWS_PROFILE), or AWS_SKIP_SIGNATURE=true for a public bucket"
    )]
    NoCredentials {
        /// The bucket.
        uri: String,
        /// Where credentials were looked for.
        #[source]
        source: Cause,
    },
    /// The endpoint does not answer.
    #[error(
        "{endpoint} does not answer for {uri}: check the endpoint (AWS_ENDPOINT_URL) and the network, or run again once it is back"
    )]
    Unreachable {
        /// The bucket or object.
        uri: String,
        /// The endpoint.
        endpoint: String,
        /// What the client says.
        #[source]
        source: Cause,
    },
    /// A transfer failed, retries included.
    #[error("{uri} could not be {action}")]
    Transfer {
        /// The object.
        uri: String,
        /// `read`, `written`, ...
        action: &'static str,
        /// What the store says.
        #[source]
        source: Cause,
    },
    /// The output cannot be written to.
    #[error(
        "{uri} cannot be written: choose an output under a directory that exists or can be made, and that may be written to"
    )]
    NotWritable {
        /// The object.
        uri: String,
        /// What the store says.
        #[source]
        source: Cause,
    },
    /// A file system on which a file cannot be created but by whoever comes first.
    #[error(
        "{uri} cannot be created: its file system makes no hard links, by which of several processes one alone creates a file: choose a place on \
         another"
    )]
    NoHardLinks {
        /// The file.
        uri: String,
        /// What the system says.
        #[source]
        source: Cause,
    },
    /// The disk itself fails.
    #[error(
        "{uri} could not be {action}: its disk or file system failed; look at it (the system's log says more), then start the run again: it goes \
         on where it was"
    )]
    DiskFailed {
        /// The object.
        uri: String,
        /// `read`, `written`, ...
        action: &'static str,
        /// What the system says.
        #[source]
        source: Cause,
    },
    /// The system lets this process open no further file.
    #[error(
        "{uri} could not be {action}: no further file can be opened; raise the limit on open files (`ulimit -n`), or take fewer workers, then start \
         the run again: it goes on where it was"
    )]
    TooManyFiles {
        /// The object.
        uri: String,
        /// `read`, `written`, ...
        action: &'static str,
        /// What the system says.
        #[source]
        source: Cause,
    },
    /// A file is there that would be lost.
    #[error("{uri} is there already: name another place, or replace it with --overwrite")]
    Exists {
        /// The file.
        uri: String,
    },
    /// A file among those of a finished output.
    #[error("{uri} lies in the finished output {output}, which changes no more: name a place outside of it")]
    InOutput {
        /// The file.
        uri: String,
        /// The output.
        output: String,
    },
    /// A link that leads nowhere.
    #[error("{uri} cannot be used: {link} is a link to {target}, which is not there: make that, or name another place")]
    DanglingLink {
        /// What was named.
        uri: String,
        /// The link: that, or a folder above it.
        link: String,
        /// What it leads to.
        target: String,
    },
    /// A link that leads nowhere, where an object of a catalogue should be.
    #[error(
        "{object} is a link to {target}, which is not there: mount its disk or write it again, or delete the link if it is no longer wanted"
    )]
    DanglingObject {
        /// The link.
        object: String,
        /// What it leads to.
        target: String,
    },
    /// A folder of objects, where an object of a catalogue should be.
    #[error(
        "{folder} is a folder, whose *.parquet {uri} does not read, though its name fits: {}; or move the folder if it is no longer wanted",
        reads_folder(.folder, .pattern.as_deref())
    )]
    FolderOfObjects {
        /// The folder.
        folder: String,
        /// The pattern that does not read it.
        uri: String,
        /// One that does; `None` where it would read objects of other names, too.
        pattern: Option<String>,
    },
    /// A finished output below a catalogue's pattern that fits its files.
    #[error(
        "{output} is an output of fisherflow, whose files {uri} reads as spectra, too: move it elsewhere, or name a narrower pattern"
    )]
    OutputAmongObjects {
        /// The output.
        output: String,
        /// The pattern.
        uri: String,
    },
    /// A file where a folder should be.
    #[error(
        "{uri} is a file, and an output is a folder: name a folder (the output.uri of a run file), or a place where none is yet"
    )]
    NotAFolder {
        /// The file.
        uri: String,
    },
    /// The store failed again and again.
    #[error(
        "{uri}{bytes} could not be {action}: given up after {attempts} attempts in {seconds:.0} s; {}, then start the run again: it goes on where it was (more patience: [store] {limit}{})",
        at_fault(.source),
        of_timeout(.source)
    )]
    Exhausted {
        /// The object.
        uri: String,
        /// ` (bytes 0-99)`, where a range of it was asked for.
        bytes: String,
        /// `read`, `written`, ...
        action: &'static str,
        /// How often it was tried.
        attempts: usize,
        /// Since the first attempt.
        seconds: f64,
        /// The key of `[store]` that allows no more.
        limit: &'static str,
        /// What the store said at last.
        #[source]
        source: Cause,
    },
    /// The credentials ran out.
    #[error(
        "{uri} could not be {action}: the credentials are no longer good; they came from {credentials}: renew them and start the run again, it goes on where it was"
    )]
    Expired {
        /// The object.
        uri: String,
        /// `read`, `written`, ...
        action: &'static str,
        /// Where they came from.
        credentials: String,
        /// What the store says.
        #[source]
        source: Cause,
    },
    /// The disk is full, or a quota or limit is reached.
    #[error(
        "there is no room for {uri}{}: free some, or choose another output; then start the run again: it goes on where it was", of_bytes(*.bytes)
    )]
    NoRoom {
        /// The file.
        uri: String,
        /// Bytes it was to have; 0 where that is not known.
        bytes: u64,
        /// What the system says.
        #[source]
        source: Cause,
    },
    /// The object changed after the run was planned.
    #[error(
        "{object} was replaced while the run was reading it: planned with {planned}, found {found}; nothing of the new version was used: start the run again to plan with it (outside of a line of releases into another output, or with --overwrite)"
    )]
    Replaced {
        /// The object.
        object: String,
        /// The version that the run was planned with.
        planned: String,
        /// What stands there now.
        found: String,
    },
    /// An object of no bytes.
    #[error("{object} is empty (0 bytes): its upload failed, or it is a marker; delete it or write it again")]
    EmptyObject {
        /// The object.
        object: String,
    },
    /// An object that is not Parquet.
    #[error("{object} is not a Parquet file: it neither begins nor ends as one")]
    NotParquet {
        /// The object.
        object: String,
    },
    /// A Parquet file without its end.
    #[error("{object} is a truncated Parquet file: it begins as one and has no readable footer; write it again")]
    Truncated {
        /// The object.
        object: String,
        /// What the decoder says, where there was something to decode.
        #[source]
        source: Option<Cause>,
    },
    /// A row group that cannot be decoded.
    #[error("row group {row_group} of {object} cannot be read: the file is damaged; write it again")]
    BadRowGroup {
        /// The object.
        object: String,
        /// Position of the row group.
        row_group: usize,
        /// What the decoder says.
        #[source]
        source: Cause,
    },
    /// A column is not there.
    #[error("{object} has no column \"{column}\"{}", did_you_mean(.nearest.as_deref()))]
    MissingColumn {
        /// The object.
        object: String,
        /// The column.
        column: String,
        /// The nearest column there is.
        nearest: Option<String>,
    },
    /// Two columns of one name.
    #[error(
        "{object} has {columns} columns of the name \"{column}\": write it again with one, for nobody can say which is meant"
    )]
    RepeatedColumn {
        /// The object.
        object: String,
        /// The column.
        column: String,
        /// How often it is there.
        columns: usize,
    },
    /// A column of another type than it must have.
    #[error("column \"{column}\" of {object} is {found}, expected {expected}{}", cast(.column, .found, .expected))]
    ColumnType {
        /// The object.
        object: String,
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// The types it may have.
        expected: String,
    },
    /// A bit of the mask that its column does not have.
    #[error(
        "bad_bits names bit {bit}, and the mask column \"{column}\" of {object} is {found}, which has bits 0 to {}: name bits that \
         it has, or another column",
        .bits.saturating_sub(1)
    )]
    MaskBit {
        /// The object.
        object: String,
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// Bits of an element.
        bits: usize,
        /// The bit named.
        bit: u8,
    },
    /// A column whose masked values another column beside it tells of.
    #[error(
        "\"{column}.mask\" of {object} masks values of column \"{column}\", as astropy writes it, and what stands there would count: {}",
        unmasked(.column, *.can_be_named)
    )]
    MaskedColumn {
        /// The object.
        object: String,
        /// The column.
        column: String,
        /// Whether `mask` could name what masks it: it is of pixels, and no other mask is named.
        can_be_named: bool,
    },
    /// Two objects of one catalogue differ in their number of pixels.
    #[error(
        "spectra in {object} have {found} pixels, those in {expected_by} have {expected}: one catalogue has one wavelength grid"
    )]
    PixelCount {
        /// The object.
        object: String,
        /// Its number of pixels.
        found: usize,
        /// The catalogue's.
        expected: usize,
        /// The object that set it.
        expected_by: String,
    },
    /// An object whose spectra have another number of pixels than the network takes.
    #[error(
        "spectra in {object} have {found} pixels in column \"{column}\", and the network takes {expected}: resample the spectra to the network's grid, \
         or name the column that holds it"
    )]
    NetworkPixels {
        /// The object.
        object: String,
        /// The column of the flux.
        column: String,
        /// Its number of pixels.
        found: usize,
        /// The network's.
        expected: usize,
    },
    /// Objects of a catalogue differ, and no more than half of them agree.
    #[error(
        "{odd} of the {of} objects of {uri} are unlike the others, and on_bad_object = \"skip\" leaves out only fewer than half, for nobody can say \
         which are meant: name a uri that reads those alone"
    )]
    NoMajority {
        /// The catalogue.
        uri: String,
        /// How many are unlike the others.
        odd: usize,
        /// How many can be used.
        of: usize,
        /// What is said of the first that is unlike the others.
        #[source]
        source: Box<StoreError>,
    },
    /// An output column would be there twice.
    #[error("column \"{column}\" would be written twice: {reason}; {remedy}")]
    ColumnCollision {
        /// The column.
        column: String,
        /// The two of them.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// A store without conditional writes.
    #[error(
        "the store of {uri} ignores the condition of a conditional write (If-None-Match): two runs could take this output, and each would count its \
         own; use a store that has conditional writes"
    )]
    IgnoresCondition {
        /// The object that was written twice.
        uri: String,
    },
    /// A store that says that it lacks what a conditional write asks for.
    #[error(
        "the store of {uri} lacks what a conditional write asks for: most often If-None-Match itself, by which of several runs one alone takes an output \
         (use a store that has conditional writes), or the encryption or checksum that AWS_ variables name"
    )]
    LacksCondition {
        /// The object.
        uri: String,
        /// What the store says.
        #[source]
        source: Cause,
    },
    /// The output belongs to another run.
    #[error(
        "{output} is held by {claim}: wait for it, or choose another output; a holder that has died is followed without more, one that hangs has to be ended"
    )]
    Held {
        /// The output.
        output: String,
        /// Who holds it.
        claim: Box<Claim>,
    },
    /// Another run left the output unfinished, and is at work no more.
    #[error(
        "{output} holds what another run, {run_id}, left unfinished, begun {started} and at work no more: --overwrite deletes it and begins anew, \
         or choose another output"
    )]
    Unfinished {
        /// The output.
        output: String,
        /// The run that left it.
        run_id: String,
        /// When it started.
        started: String,
    },
    /// Another process took the output over while this one seemed dead.
    #[error(
        "{output} was taken over by {claim}, to whom this process gave no sign of life: run again once that one has ended"
    )]
    TakenOver {
        /// The output.
        output: String,
        /// Who holds it now.
        claim: Box<Claim>,
    },
    /// The claim of this process is gone, and nobody else has one.
    #[error(
        "{output}: the claim of this process was removed, by `fisherflow gc` or by hand, so that what it writes counts no more: run again"
    )]
    ClaimRemoved {
        /// The output.
        output: String,
    },
    /// The output holds another, finished run.
    #[error("{output} already holds the finished run {run_id}: choose another output, or overwrite it (--overwrite)")]
    Complete {
        /// The output.
        output: String,
        /// The run.
        run_id: String,
    },
    /// The output's place holds something that is not ours.
    #[error("{output} is not empty and not an output of fisherflow: it holds {object}; choose another output")]
    NotOurs {
        /// The output.
        output: String,
        /// One of the objects there.
        object: String,
    },
    /// In an output that is to make room for another run lies what is not of its runs.
    #[error(
        "{object} is not among the files of this output's runs, and lies in {output}, of which nothing was deleted: move it elsewhere, or choose another \
         output"
    )]
    NotOfARun {
        /// The output.
        output: String,
        /// One of the objects there.
        object: String,
    },
    /// The commit lost against another one.
    #[error("{output} was committed by run {run_id} {difference}: this run's result is not visible")]
    CommitConflict {
        /// The output.
        output: String,
        /// The run that committed.
        run_id: String,
        /// In what it differs.
        difference: String,
    },
    /// A manifest of another version.
    #[error(
        "{output}/manifest.json is of version {found}, written by fisherflow {fisherflow}, and this one reads version {expected}: use the one that wrote \
         it, or run again with --overwrite"
    )]
    ManifestVersion {
        /// The output.
        output: String,
        /// Of its manifest.
        found: u32,
        /// What wrote it.
        fisherflow: String,
        /// The version that is read.
        expected: u32,
    },
    /// A release that a line does not have.
    #[error(
        "{line} has no release {release}: {}",
        latest.map_or("nothing is released there yet".to_owned(), |latest| format!("its last is {latest}; fisherflow releases {line} lists those that are kept"))
    )]
    NoRelease {
        /// The line.
        line: String,
        /// What was asked for.
        release: u64,
        /// Its last.
        latest: Option<u64>,
    },
    /// No manifest.
    #[error(
        "{output} has no manifest.json: no run was finished there; finish its run first (`fisherflow status` says how far it is)"
    )]
    NotComplete {
        /// The output.
        output: String,
    },
    /// Neither a manifest nor a claim.
    #[error("{output} is no output of fisherflow: no run has written or claimed it; name the output.uri of a run file")]
    NoOutput {
        /// The place.
        output: String,
    },
    /// A document of the output that cannot be understood.
    #[error("{uri} cannot be understood: it is damaged, or from a newer fisherflow{}", made_good(.uri))]
    BadDocument {
        /// The object.
        uri: String,
        /// What the decoder says.
        #[source]
        source: Cause,
    },
    /// Sums of a finished group that are gone, or are not those that were written.
    #[error(
        "{uri} is damaged or gone: its numbers from {start} on are not those that were written; the group counts as unfinished now: start the run \
         again, it computes that group again and goes on where it was"
    )]
    DamagedSums {
        /// The object.
        uri: String,
        /// The first of the numbers.
        start: u64,
    },
    /// A tile of a factor that is gone, or is not the one that was written.
    #[error(
        "{uri} is gone or damaged: nothing is made of it; start the run again, it computes that tile again and goes on where it was"
    )]
    LostTile {
        /// The object.
        uri: String,
    },
    /// A file that is no vector.
    #[error("{uri} is no vector: {reason}")]
    BadVector {
        /// The object.
        uri: String,
        /// Why.
        reason: String,
    },
    /// Arrays that do not fit together.
    #[error("{what}: {found} values, expected {expected}")]
    Shape {
        /// Which array.
        what: String,
        /// Its length.
        found: usize,
        /// What it should be.
        expected: usize,
    },
    /// A table could not be encoded.
    #[error("{uri} could not be encoded as Parquet")]
    Encode {
        /// The object.
        uri: String,
        /// What the encoder says.
        #[source]
        source: Cause,
    },
    /// A batch or description that cannot be.
    #[error(transparent)]
    Spectra(#[from] SpectraError),
    /// Reading ended before its end.
    #[error("reading of {object} stopped before its end")]
    Stopped {
        /// The object.
        object: String,
    },
}
