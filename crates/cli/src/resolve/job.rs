//! A run file into a [`Job`].

use fisherflow_dataflow::{
    CatalogueSource, Compute, Curvature, ExistingOutput, Job, NetworkSource, Noise, Predict,
};
use fisherflow_network::{Arithmetic, Description, LabelsDescription};

use crate::environment::Environment;
use crate::exit_code::CliError;
use crate::run_file::{CatalogueTable, ComputeTable, Folder, NetworkTable, RunFile};

use super::object_store;

/// The job of a run file whose paths start from `folder`.
///
/// # Errors
/// A table that a run needs is absent, or the environment's object store settings are wrong.
pub fn job(
    run_file: &RunFile,
    folder: &Folder,
    existing_output: ExistingOutput,
    environment: &Environment,
) -> Result<Job, CliError> {
    let curvature = run_file.curvature()?;
    let network = network(&run_file.network, folder);
    let fit = catalogue(&run_file.catalogue, folder);
    let predict = Predict {
        catalogue: run_file
            .predict
            .catalogue
            .as_ref()
            .map(|table| catalogue(table, folder)),
        jacobians: run_file.predict.jacobians,
    };
    let prior_precision = run_file.prior()?.precision;
    let output = folder.locate(&run_file.output()?.uri);
    let mut uris = vec![network.uri.as_str(), &fit.uri, &output];
    uris.extend(predict.catalogue.iter().map(|source| source.uri.as_str()));
    let store = object_store::options(environment, &uris)?;
    Ok(Job {
        curvature: Curvature {
            structure: curvature.structure,
            by_layer: curvature.layers.clone(),
        },
        noise: match &run_file.noise.covariance {
            Some(covariance) => Noise::Covariance(covariance.clone()),
            None => Noise::Holdout,
        },
        prior_precision,
        compute: Compute {
            arithmetic: arithmetic(&run_file.compute),
            batch: run_file.compute.batch,
            group: run_file.compute.group,
            holdout_fraction: run_file.noise.holdout_fraction,
        },
        network,
        catalogue: fit,
        predict,
        output,
        existing_output,
        store,
    })
}

/// A catalogue at its place.
pub fn catalogue(table: &CatalogueTable, folder: &Folder) -> CatalogueSource {
    CatalogueSource {
        uri: folder.locate(&table.uri),
        columns: table.columns.clone(),
        on_bad_object: table.on_bad_object,
    }
}

/// The arithmetic of a worker.
pub fn arithmetic(compute: &ComputeTable) -> Arithmetic {
    Arithmetic {
        precision: compute.precision,
        threads: compute.threads,
    }
}

/// A network at its place, and what the run file says of it.
fn network(table: &NetworkTable, folder: &Folder) -> NetworkSource {
    let labels = &table.labels;
    NetworkSource {
        uri: folder.locate(&table.uri),
        said: Description {
            layers: table.layers.clone(),
            input_mean: table.input_mean.clone(),
            input_scale: table.input_scale.clone(),
            labels: labels.count().map(|_| LabelsDescription {
                names: labels.names.clone(),
                units: labels.units.clone(),
                mean: labels.mean.clone(),
                scale: labels.scale.clone(),
            }),
        },
    }
}
