//! What was typed.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, ArgGroup, Parser, Subcommand, ValueEnum};
use fisherflow_dataflow::{FailAt, Peer, Reduction};
use fisherflow_spectra::Simulation;

use crate::weights::Weights;

/// Error bars for neural networks over whole catalogues of spectra.
///
/// One run file says everything a run depends on; RUN_FILE.md, in the source
/// tree under crates/cli/, lists its keys.
///
/// Exit codes: 0 done, 1 the run failed, 2 the run file or arguments are wrong,
/// 3 data refused, 75 run again: the store gave out or does not answer, a
/// process was lost, never came, was asked to end or given up, its port was
/// taken, the processes found different data, an object was replaced under a
/// release, or sums that were left are damaged.
#[derive(Clone, Debug, Parser)]
#[command(name = "fisherflow", version, verbatim_doc_comment)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How much to say.
    #[command(flatten)]
    pub logging: LoggingArgs,
}

/// How much to say about it, on standard error.
#[derive(Clone, Debug, clap::Args)]
pub struct LoggingArgs {
    /// Log more, a step each: what happens (logged without it where no terminal shows progress), its details, those of the libraries, everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Nothing but warnings and errors: no progress, and no page of what was done. What a question asks for (plan, inspect, verify, status,
    /// report, releases, inverse without --out, gc --dry-run) is printed all the same
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Form of the log lines
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORM")]
    pub log: LogFormat,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Time, level and fields, to be read
    Text,
    /// A JSON object a line, with run_id once the inputs are open, to be collected; the page of what was done is one of them, and on standard
    /// output is only what a question asks for
    Json,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Do every stage and leave a complete output
    Run(StageArgs),
    /// Print what a run would do, and touch nothing
    Plan(PlanArgs),
    /// Only the fit: noise, references and the Hessian's sums
    Fit(StageArgs),
    /// Only the inverse of what was fitted
    Invert(StageArgs),
    /// Only the error bars, from what was inverted
    Predict(StageArgs),
    /// The eigenvalues of the curvature of all weights: extremes, trace, spectral density
    Spectrum(SpectrumArgs),
    /// The Hessian of the network's outputs by its weights, for single stars
    OutputHessian(OutputHessianArgs),
    /// Train the network of a run file on its catalogue
    Train(TrainArgs),
    /// Show any network, catalogue or output
    Inspect(UriArgs),
    /// Check an output against its manifest
    Verify(UriArgs),
    /// Tell how far the run of an output is, from any machine
    Status(AskArgs),
    /// Write a catalogue of simulated spectra
    Simulate(SimulateArgs),
    /// Tell what an output holds, and write its page of plots
    Report(ReportArgs),
    /// Ask a complete output for elements, the diagonal or products of a layer's inverse Hessian
    Inverse(InverseArgs),
    /// List the releases of a line
    Releases(AskArgs),
    /// Remove what no release of a line needs
    Gc(GcArgs),
    /// Write the Hessian of a complete output in another program's convention
    Export(ExportArgs),
}

/// A run file, and what its memory and times depend on.
#[derive(Clone, Debug, clap::Args)]
pub struct PlanArgs {
    /// The run file (TOML)
    pub file: PathBuf,
    /// Number of processes of the run
    #[arg(short = 'n', long, default_value_t = 1, value_name = "N")]
    pub processes: usize,
    /// Workers (threads) of each process
    #[arg(short = 'w', long, default_value_t = 1, value_name = "W")]
    pub workers: usize,
    /// Plan for so many spectra like those of the catalogue: 100e6
    #[arg(long, value_name = "N")]
    pub spectra: Option<f64>,
    /// Spectra a second of one worker in the fit [default: by operations, as measured]
    #[arg(long, value_name = "SPECTRA_PER_S")]
    pub rate: Option<f64>,
    /// MB/s that a process sends to others [default: as measured]
    #[arg(long, value_name = "MB_PER_S")]
    pub network: Option<f64>,
    /// MB/s that a process reads from its store or writes there [default: as measured]
    #[arg(long, value_name = "MB_PER_S")]
    pub store: Option<f64>,
    /// Rates of another machine, a JSON object as `tests/cluster-model` writes it; what --rate, --network and --store say goes over it
    #[arg(long, value_name = "FILE")]
    pub rates: Option<PathBuf>,
    /// Print the plan as JSON: bytes, floating-point operations and seconds
    #[arg(long)]
    pub json: bool,
}

/// A run file, and where to run it.
#[derive(Clone, Debug, clap::Args)]
pub struct StageArgs {
    /// The run file (TOML)
    pub file: PathBuf,
    /// Processes and workers.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Replace a finished output, or what another run left: removed once all processes are there. This run goes on with what it left unfinished.
    /// Of a line, whose releases never change: make the next release even of the same inputs
    #[arg(long)]
    pub overwrite: bool,
}

/// A run file, and how its curvature's eigenvalues are looked for.
#[derive(Clone, Debug, clap::Args)]
pub struct SpectrumArgs {
    /// The run file (TOML): network, catalogue and noise
    pub file: PathBuf,
    /// Processes and workers.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// ggn, empirical_fisher or hessian [default: curvature.kind]
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// Random vectors: the errors of trace and density fall with the root of their number
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub probes: usize,
    /// Lanczos steps, each a pass over the spectra; probes * steps vectors of all weights are held in memory
    #[arg(long, default_value_t = 30, value_name = "M")]
    pub steps: usize,
    /// Seed of the random vectors
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub seed: u64,
    /// Folder of the files: a path, or the URI of an object store [default: output.uri with -spectrum behind it]
    #[arg(long, value_name = "URI")]
    pub out: Option<String>,
    /// Replace a spectrum that is there
    #[arg(long)]
    pub overwrite: bool,
}

/// A run file, whose stars, and what of their Hessian.
#[derive(Clone, Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true))]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["ids", "rows"]))]
pub struct OutputHessianArgs {
    /// The run file (TOML): network, and the catalogue to predict
    pub file: PathBuf,
    /// Identifier of a star; may be given more than once. Of several spectra (visits) say which with --file and --row, or --all-visits
    #[arg(long = "id", value_name = "ID")]
    pub ids: Vec<String>,
    /// Position of a spectrum in its file, from 0, column row of predictions/; may be given more than once
    #[arg(long = "row", value_name = "N")]
    pub rows: Vec<u64>,
    /// The file of the spectra: its name below the catalogue's folder, column file of predictions/
    #[arg(long = "file", value_name = "FILE")]
    pub of_file: Option<String>,
    /// Every spectrum of each --id
    #[arg(long, requires = "ids", conflicts_with = "rows")]
    pub all_visits: bool,
    /// Name of a label; may be given more than once [default: all labels]
    #[arg(long = "label", value_name = "LABEL")]
    pub labels: Vec<String>,
    /// The diagonal
    #[arg(long, group = "what")]
    pub diagonal: bool,
    /// All of it, for a small network
    #[arg(long, group = "what")]
    pub dense: bool,
    /// Its product with a vector of all weights: one value a weight, from a .npy, .parquet or text file
    #[arg(long, group = "what", value_name = "V")]
    pub product: Option<String>,
    /// Folder of the file: a path, or the URI of an object store [default: output.uri with -output-hessian behind it]
    #[arg(long, value_name = "URI")]
    pub out: Option<String>,
    /// Replace a file that is there
    #[arg(long)]
    pub overwrite: bool,
}

/// Processes and workers; the same for every process but for `--process`.
#[derive(Clone, Debug, clap::Args)]
pub struct ClusterArgs {
    /// Number of processes of the run [default: 1, with --slurm the step's tasks]
    #[arg(short = 'n', long, value_name = "N")]
    pub processes: Option<usize>,
    /// Which of them this one is, from 0 [default: JOB_COMPLETION_INDEX, with --slurm SLURM_PROCID]
    #[arg(short = 'p', long, value_name = "P")]
    pub process: Option<usize>,
    /// Where the processes are.
    #[command(flatten)]
    pub hosts: HostsArgs,
    /// Workers (threads) of each process
    #[arg(short = 'w', long, default_value_t = 1, value_name = "W")]
    pub workers: usize,
    /// File with the secret that the processes prove to one another; needed where they are on several machines [default: the
    /// environment variable FISHERFLOW_CLUSTER_SECRET]
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Seconds to wait for the other processes at start-up
    #[arg(long, default_value_t = 300, value_name = "S", value_parser = seconds)]
    pub deadline: u64,
    /// Seconds of silence after which a process counts as lost: stopped, or cut off
    #[arg(long, default_value_t = 60, value_name = "S", value_parser = seconds)]
    pub peer_timeout: u64,
    /// Answer GET /metrics for Prometheus: PORT or :PORT on this machine alone, ADDRESS:PORT (0.0.0.0:9464) for others; port 0 is any free
    /// one, which the log names
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<String>,
    /// For tests: where this process dies, NAME or NAME:NTH, or stops, NAME:NTH:stop
    #[arg(long, hide = true, value_name = "POINT")]
    pub fail_at: Option<FailAt>,
}

/// Where the processes are; without any of these on this machine, at ports 2101, 2102, ...
#[derive(Clone, Debug, Default, clap::Args)]
#[group(multiple = false)]
pub struct HostsArgs {
    /// File with a host:port of each process a line, in order
    #[arg(long, value_name = "FILE")]
    pub hostfile: Option<PathBuf>,
    /// Their name, {} for the number of the process: 'fisherflow-{}.fisherflow' or with a port, 'fisherflow-{}.fisherflow:2101'
    #[arg(long, value_name = "PATTERN")]
    pub hosts: Option<String>,
    /// The tasks of this Slurm step, from SLURM_STEP_NODELIST, SLURM_STEP_NUM_TASKS (else the job's) and SLURM_PROCID, in blocks at ports 2101, 2102, ... of each node
    #[arg(long)]
    pub slurm: bool,
    /// They find one another under the output: each leaves its address there. This one's, where it is not this machine's own
    /// address and a free port: --rendezvous=HOST, HOST:PORT or :PORT
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "", value_name = "ADDRESS")]
    pub rendezvous: Option<String>,
}

/// A run file, and how to train.
#[derive(Clone, Debug, clap::Args)]
pub struct TrainArgs {
    /// The run file (TOML) with its train table; the network is written to its network.uri
    pub file: PathBuf,
    /// Threads; the result does not depend on them [default: compute.threads]
    #[arg(short, long, value_name = "T")]
    pub threads: Option<usize>,
    /// Replace the network if it is there
    #[arg(long)]
    pub overwrite: bool,
}

/// A URI or path.
#[derive(Clone, Debug, clap::Args)]
pub struct UriArgs {
    /// A path, or the URI of an object store; of a line its last release, or with @N behind it release N
    pub uri: String,
}

/// A URI, and how the answer is written.
#[derive(Clone, Debug, clap::Args)]
pub struct AskArgs {
    /// A path, or the URI of an object store; of a line all of it, or for `status` with @N behind it release N
    pub uri: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// An output, and where its page goes.
#[derive(Clone, Debug, clap::Args)]
pub struct ReportArgs {
    /// The output: a path, or the URI of an object store; of a line its last release, or with @N behind it release N
    pub uri: String,
    /// Write the page to this file [default: report.html in the output; in a release only where it is not there]
    #[arg(long, value_name = "FILE")]
    pub out: Option<String>,
    /// Replace a file that is there
    #[arg(long, requires = "out")]
    pub overwrite: bool,
}

/// A line, and what of it stays.
#[derive(Clone, Debug, clap::Args)]
pub struct GcArgs {
    /// The line: a path, or the URI of an object store
    pub uri: String,
    /// Keep the last so many releases [default: all]
    #[arg(long, value_name = "N", value_parser = releases)]
    pub keep: Option<usize>,
    /// Remove nothing that is younger
    #[arg(long, default_value_t = 24.0, value_name = "HOURS", value_parser = hours)]
    pub grace: f64,
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
}

/// A number of releases.
fn releases(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(releases) if releases > 0 => Ok(releases),
        _ => Err("expected a number of releases, 1 or more: the last one is always kept".to_owned()),
    }
}

/// Whoever is waited for as long as this never comes.
const LONGEST: u64 = 30 * 24 * 3600;

/// A number of seconds to wait.
fn seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seconds) if seconds <= LONGEST => Ok(seconds),
        _ => Err(format!("expected a number of seconds, at most {LONGEST} (30 days)")),
    }
}

/// A number of hours.
fn hours(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(hours) if (0.0..1e6).contains(&hours) => Ok(hours),
        _ => Err("expected a number of hours, 0 or more".to_owned()),
    }
}

/// A simulated catalogue.
#[derive(Clone, Debug, clap::Args)]
pub struct SimulateArgs {
    /// Folder of the Parquet objects: a path, or the URI of an object store
    pub out: String,
    /// Number of spectra
    #[arg(long, value_name = "N")]
    pub spectra: u64,
    /// Pixels of each
    #[arg(long, default_value_t = 7213, value_name = "D")]
    pub pixels: usize,
    /// Seed: the same spectra for the same seed, however many objects
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub seed: u64,
    /// Number of objects that they are spread over
    #[arg(long, default_value_t = 1, value_name = "M")]
    pub objects: u64,
    /// Least signal to noise a pixel
    #[arg(long, default_value_t = Simulation::SNR.0, value_name = "SNR")]
    pub snr_from: f64,
    /// Largest signal to noise a pixel
    #[arg(long, default_value_t = Simulation::SNR.1, value_name = "SNR")]
    pub snr_to: f64,
}

/// What is asked of a layer's inverse Hessian `P^-1`, `P = H + prior`, in normalised label units.
#[derive(Clone, Debug, clap::Args)]
#[command(group(ArgGroup::new("question").required(true).args(["rows", "diagonal", "solve", "quadratic"])))]
pub struct InverseArgs {
    /// The output: a path, or the URI of an object store
    pub output: String,
    /// The layer's name; or those of all layers of a `full` block, joined by +
    #[arg(long, value_name = "L")]
    pub layer: String,
    /// Elements: of these weights, as 0:10,99 (index = out * (in + 1) + in, bias last; without a bias out * in + in) or OUT/IN, as 2/0:5,2/bias
    #[arg(long, value_name = "WEIGHTS")]
    pub rows: Option<Weights>,
    /// ... with these weights [default: those of --rows]
    #[arg(long, value_name = "WEIGHTS", requires = "rows")]
    pub cols: Option<Weights>,
    /// The variance of every weight
    #[arg(long)]
    pub diagonal: bool,
    /// P^-1 v: one value a weight, from a .npy, .parquet or text file
    #[arg(long, value_name = "V")]
    pub solve: Option<String>,
    /// v^T P^-1 v
    #[arg(long, value_name = "V", conflicts_with = "out")]
    pub quadratic: Option<String>,
    /// Write the answer to a .parquet, .npy or .csv file
    #[arg(long, value_name = "FILE")]
    pub out: Option<String>,
    /// Replace a file that is there
    #[arg(long, requires = "out")]
    pub overwrite: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Threads; the result does not depend on them
    #[arg(short, long, default_value_t = 1, value_name = "T")]
    pub threads: usize,
}

/// Whose convention, and where to.
#[derive(Clone, Debug, clap::Args)]
pub struct ExportArgs {
    /// The output: a path, or the URI of an object store
    pub output: String,
    /// The program: laplace-torch, curvlinops, kronfluence, backpack or scipy
    #[arg(long, value_name = "PEER")]
    pub to: Peer,
    /// Whether its loss sums or averages the squared residuals over spectra and labels [default: mean for scipy, sum for the others]
    #[arg(long, value_parser = reduction(), value_name = "R")]
    pub reduction: Option<Reduction>,
    /// The .safetensors file: a path, or the URI of an object store; EXPORT.md, in the source tree under crates/cli/, says what is in it
    #[arg(long, value_name = "FILE")]
    pub out: String,
    /// Replace a file that is there
    #[arg(long)]
    pub overwrite: bool,
    /// Threads; the result does not depend on them
    #[arg(short, long, default_value_t = 1, value_name = "T")]
    pub threads: usize,
}

/// How a loss takes spectra and labels together.
fn reduction() -> impl TypedValueParser<Value = Reduction> {
    let known = [
        PossibleValue::new("sum").help("Their sum"),
        PossibleValue::new("mean").help("Their mean"),
    ];
    PossibleValuesParser::new(known).map(|name| match name.as_str() {
        "mean" => Reduction::Mean,
        _ => Reduction::Sum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split(' '))
    }

    #[test]
    fn clap_accepts_the_definition() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn help_says_what_most_often_ends_with_75() {
        let help = <Args as clap::CommandFactory>::command().render_long_help().to_string();
        let (_, of_75) = help.split_once("75 run again: ").unwrap();
        for said in ["store gave out or does not answer", "never came", "its port was"] {
            assert!(of_75.contains(said), "{said}: {help}");
        }
    }

    #[test]
    fn places_processes_and_workers_as_timely_does() {
        let args = parse("fisherflow run a.toml -n 2 -p 1 -w 4 --hostfile hosts").unwrap();
        let Command::Run(stage) = args.command else {
            panic!("not run")
        };
        assert_eq!(stage.cluster.processes, Some(2));
        assert_eq!(stage.cluster.process, Some(1));
        assert_eq!(stage.cluster.workers, 4);
        assert!(!stage.overwrite);
    }

    #[test]
    fn a_rendezvous_may_name_an_address() {
        for (said, meant) in [("--rendezvous", ""), ("--rendezvous=node-1:2101", "node-1:2101")] {
            let args = parse(&format!("fisherflow run {said} a.toml")).unwrap();
            let Command::Run(stage) = args.command else {
                panic!("not run")
            };
            assert_eq!(stage.cluster.hosts.rendezvous.as_deref(), Some(meant));
        }
    }

    #[test]
    fn wrong_arguments_exit_with_2() {
        for line in [
            "fisherflow",
            "fisherflow rum a.toml",
            "fisherflow run",
            "fisherflow run a.toml -w many",
            "fisherflow run a.toml -q -v",
            "fisherflow simulate out",
            "fisherflow inverse out --layer a",
            "fisherflow inverse out --rows 0:3",
            "fisherflow inverse out --layer a --cols 0",
            "fisherflow inverse out --layer a --rows x",
            "fisherflow inverse out --layer a --diagonal --solve v.npy",
            "fisherflow inverse out --layer a --diagonal --overwrite",
            "fisherflow export out --to pytorch --out x.safetensors",
            "fisherflow gc line --grace -1",
            "fisherflow gc line --keep all",
            "fisherflow gc line --keep 0",
            "fisherflow report out --overwrite",
            "fisherflow run a.toml --slurm --hostfile hosts",
            "fisherflow run a.toml --deadline 18446744073709551615",
            "fisherflow run a.toml --deadline -1",
            "fisherflow run a.toml --peer-timeout 2592001",
            "fisherflow run a.toml --rendezvous --hosts a-{}",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
