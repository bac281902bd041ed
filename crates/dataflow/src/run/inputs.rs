//! What a run reads, as its manifest says, and in what that differs from what another run read.
//!
//! A run that is at work keeps it in [`Output::INPUTS`], so that one that comes after it can be told why it is another.

use fisherflow_store::in_words::{bytes as bytes_in_words, count};
use fisherflow_store::{ExcludeList, Manifest, ManifestInput, Output, StoreError, folder_of, now_utc};
use serde::{Deserialize, Serialize};

use crate::context::{Context, GroupedCatalogue};
use crate::error::RunError;

/// Objects that are named; others are counted.
const NAMED: usize = 3;

/// What a run read, and until when it was known to be as it says.
#[derive(Serialize, Deserialize)]
struct Noted {
    inputs: Vec<ManifestInput>,
    noted: String,
}

/// What this run reads.
pub(crate) fn inputs(context: &Context) -> Vec<ManifestInput> {
    let job = &context.job;
    let mut inputs = vec![
        ManifestInput {
            role: "network".into(),
            uri: job.network.uri.clone(),
            sha256: Some(context.network_sha256.clone()),
            etags_sha256: None,
            objects: 1,
            bytes: context.network_bytes,
            rows: 0,
            skipped: Vec::new(),
        },
        catalogue("catalogue", &job.catalogue.uri, &context.fit),
    ];
    if let (Some(source), Some(predict)) = (&job.predict.catalogue, &context.predict) {
        inputs.push(catalogue("predict", &source.uri, predict));
    }
    inputs
}

fn catalogue(role: &str, uri: &str, grouped: &GroupedCatalogue) -> ManifestInput {
    let catalogue = &grouped.catalogue;
    ManifestInput {
        role: role.into(),
        uri: uri.into(),
        sha256: None,
        etags_sha256: Some(catalogue.etags_sha256()),
        objects: catalogue.summary().objects.len() as u64,
        bytes: catalogue.bytes(),
        rows: catalogue.n_rows(),
        skipped: catalogue.skipped().to_vec(),
    }
}

/// Refuses inputs that lie where the run writes its output: what it finds there goes, with `--overwrite` or before its commit.
pub(crate) fn check_apart(context: &Context) -> Result<(), RunError> {
    let job = &context.job;
    let mut read = vec![("network.uri", folder_of(&job.network.uri)?)];
    if let Some(uri) = &job.basis {
        read.push(("noise.basis", folder_of(uri)?));
    }
    let fit = [("catalogue.uri", "catalogue.exclude", &context.fit)];
    let predict = context.predict.as_ref();
    let predict = predict.map(|grouped| ("predict.uri", "predict.exclude", grouped));
    for (objects, exclude, grouped) in fit.into_iter().chain(predict) {
        let summary = grouped.catalogue.summary();
        read.extend(summary.objects.iter().map(|object| (objects, object.path.clone())));
        let tables = grouped.catalogue.excluded().into_iter().flat_map(ExcludeList::objects);
        read.extend(tables.map(|table| (exclude, table.clone())));
    }
    let is_in_output = context.output.place();
    match read.iter().find(|(_, object)| is_in_output(object)) {
        None => Ok(()),
        Some((key, object)) => Err(RunError::Usage(format!(
            "{key}: {object} lies among the files of the output {}, where a run deletes what it did not write: move it elsewhere, or name another \
             output",
            context.output.uri()
        ))),
    }
}

/// Leaves word of what this run reads, for those who find its output unfinished.
pub(crate) fn note(context: &Context) -> Result<(), RunError> {
    let noted = Noted {
        inputs: inputs(context),
        noted: now_utc(),
    };
    let json = serde_json::to_vec_pretty(&noted).map_err(|error| RunError::Internal(error.to_string()))?;
    context.check_claim()?;
    context.output.put(Output::INPUTS, json)?;
    Ok(())
}

/// In what this run differs from the one that finished its output, or, without a manifest, left it unfinished; `None` where that left no word.
pub(crate) fn difference(context: &Context, manifest: Option<&Manifest>) -> Result<Option<String>, RunError> {
    if let Some(manifest) = manifest {
        return told(context, &manifest.inputs, &manifest.created).map(Some);
    }
    match context.stores.read(&context.output.child(Output::INPUTS)) {
        Ok(bytes) => match serde_json::from_slice::<Noted>(&bytes) {
            Ok(then) => told(context, &then.inputs, &then.noted).map(Some),
            // Of another version.
            Err(_) => Ok(None),
        },
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn told(context: &Context, then: &[ManifestInput], moment: &str) -> Result<String, RunError> {
    let mut differences = Vec::new();
    let all = inputs(context);
    for now in &all {
        let role = &now.role;
        let Some(then) = then.iter().find(|input| input.role == *role) else {
            differences.push(format!("{role} {} was not read then", now.uri));
            continue;
        };
        if then.hash().1 == now.hash().1 {
            if is_elsewhere(then, now)? {
                differences.push(format!(
                    "{role}.uri was {}, and is {}: the same objects, whose names (column `file`) start from another folder",
                    then.uri, now.uri
                ));
            }
            continue;
        }
        differences.push(if then.uri != now.uri {
            format!("{role} was {}, and is {}", then.uri, now.uri)
        } else if now.sha256.is_some() {
            format!("{role} {} has other bytes", now.uri)
        } else {
            let grouped = if role == "predict" {
                context.predicted()
            } else {
                &context.fit
            };
            let later = match then.objects == now.objects {
                true => grouped.catalogue.written_after(moment)?,
                // The counts tell, and to ask after each takes minutes where there are many thousands.
                false => Vec::new(),
            };
            changed(then, now, &later)
        });
    }
    for gone in then.iter().filter(|then| all.iter().all(|now| now.role != then.role)) {
        differences.push(format!("{} {} is not read now", gone.role, gone.uri));
    }
    if differences.is_empty() {
        differences.push("network and catalogues are as they were: a setting of the run file, a list to exclude or the build is another".into());
    }
    Ok(differences.join("; "))
}

/// Whether two catalogues of the same objects take their names from other folders.
fn is_elsewhere(then: &ManifestInput, now: &ManifestInput) -> Result<bool, RunError> {
    Ok(now.sha256.is_none() && folder_of(&then.uri)? != folder_of(&now.uri)?)
}

/// Rows, objects and bytes.
pub(crate) fn size(input: &ManifestInput) -> String {
    format!(
        "{} rows in {} objects, {}",
        input.rows,
        input.objects,
        bytes_in_words(input.bytes)
    )
}

/// A catalogue whose etags are others; `later`: its objects that were written since.
fn changed(then: &ManifestInput, now: &ManifestInput, later: &[String]) -> String {
    let catalogue = format!("{} {}", now.role, now.uri);
    let objects = match later {
        [] => None,
        few if few.len() <= NAMED => Some(few.join(", ")),
        many => Some(format!("{} and {} more", many[..NAMED].join(", "), many.len() - NAMED)),
    };
    if (then.objects, then.bytes, then.rows) != (now.objects, now.bytes, now.rows) {
        let (mut was, mut is) = (size(then), size(now));
        if was == is {
            was += &format!(" ({} bytes)", count(then.bytes));
            is += &format!(" ({} bytes)", count(now.bytes));
        }
        let since = objects.map_or_else(String::new, |objects| format!(": {objects} was written since"));
        return format!("{catalogue} was {was}, and is {is}{since}");
    }
    match objects {
        Some(objects) => format!(
            "{catalogue} has as many rows and bytes as then, but {objects} was written or touched since (its etag, or on a disk its inode or time, is \
             another)"
        ),
        None => format!(
            "{catalogue} has as many rows and bytes as then, but an object's name or etag (on a disk its inode or time) is another, and none is dated \
             later than then: look for one that was renamed, or replaced by a copy that kept its time (cp -p, rsync -a)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_of_a_catalogue_is_told_where_words_are_too_round() {
        let of = |bytes| ManifestInput {
            role: "catalogue".into(),
            uri: "cat".into(),
            sha256: None,
            etags_sha256: Some(String::new()),
            objects: 2,
            bytes,
            rows: 9,
            skipped: Vec::new(),
        };
        let (then, now) = (of(5_000_000), of(5_000_001));
        let size = "9 rows in 2 objects, 4.8 MiB";
        let both = format!("catalogue cat was {size} (5,000,000 bytes), and is {size} (5,000,001 bytes)");
        assert_eq!(changed(&then, &now, &[]), both);
        let said = changed(&then, &now, &["cat/b.parquet".into()]);
        assert_eq!(said, format!("{both}: cat/b.parquet was written since"));
        let other = changed(&then, &of(9_000_000), &[]);
        assert_eq!(
            other,
            format!("catalogue cat was {size}, and is 9 rows in 2 objects, 8.6 MiB")
        );
    }
}
