//! `plan`: what a run would do and take, without touching anything.

use std::sync::Arc;

use fisherflow_dataflow::{CataloguePlan, Job, RunPlan};

use crate::exit_code::CliError;
use crate::printing::{Grid, Page, bytes, count, flop};

/// Prints the plan of a run.
///
/// # Errors
/// Whatever would end the run before its first pass.
pub fn plan(job: Job, workers: usize) -> Result<(), CliError> {
    let plan = fisherflow_dataflow::plan(Arc::new(job), workers)?;
    Ok(page(&plan, workers).print()?)
}

fn page(plan: &RunPlan, workers: usize) -> Page {
    let mut page = Page::new();
    let network = &plan.network;
    let mut facts = vec![
        ("output", format!("{}, {}", plan.output, bytes(plan.output_bytes))),
        ("run", plan.run_id.clone()),
        (
            "network",
            format!(
                "{}: {} pixels to {}, {} weights in {} layers",
                network.uri,
                count(network.n_inputs as u64),
                network.labels.join(", "),
                count(network.n_weights as u64),
                network.n_layers
            ),
        ),
        ("fit", catalogue(&plan.fit)),
        (
            "predict",
            plan.predict
                .as_ref()
                .map_or("the spectra of the fit, in the same passes".to_owned(), catalogue),
        ),
    ];
    for skipped in plan
        .fit
        .skipped
        .iter()
        .chain(plan.predict.iter().flat_map(|p| &p.skipped))
    {
        facts.push(("left out", format!("{}: {}", skipped.object, skipped.reason)));
    }
    page.facts(&facts);

    let mut blocks = Grid::new(&["block", "structure", "weights", "sums", "sums FLOP", "inverse FLOP"]);
    for block in &plan.blocks {
        blocks.row(vec![
            block.layer.clone(),
            block.structure.to_owned(),
            count(block.n_weights),
            bytes(block.sums_bytes),
            flop(block.sums_flops),
            flop(block.inverse_flops),
        ]);
    }
    page.gap().grid(&blocks);

    let corrected: Vec<_> = plan
        .blocks
        .iter()
        .filter_map(|block| Some((&block.layer, block.correction?)))
        .collect();
    if !corrected.is_empty() {
        let mut second = Grid::new(&["second pass", "eigenbases", "eigenbases FLOP", "sums", "sums FLOP"]);
        for (layer, facts) in corrected {
            second.row(vec![
                layer.clone(),
                bytes(facts.bases_bytes),
                flop(facts.bases_flops),
                bytes(facts.sums_bytes),
                flop(facts.sums_flops),
            ]);
        }
        page.gap().grid(&second);
    }

    let mut stages = Grid::new(&["stage", "FLOP", "memory"]);
    for (stage, operations, memory) in [
        ("fit", plan.flops.fit, plan.memory.fit),
        ("invert", plan.flops.invert, plan.memory.invert),
        ("predict", plan.flops.predict, plan.memory.predict),
    ] {
        stages.row(vec![stage.to_owned(), flop(operations), bytes(memory)]);
    }
    page.gap().grid(&stages).line(format!(
        "memory is of one process with {} {}, beside about 100 MB for the program and what is read ahead",
        workers,
        if workers == 1 { "worker" } else { "workers" }
    ));
    page
}

/// One catalogue in one line.
fn catalogue(plan: &CataloguePlan) -> String {
    format!(
        "{}: {} spectra in {} objects ({}), {} row groups, {} reduction groups",
        plan.uri,
        count(plan.spectra),
        count(plan.objects as u64),
        bytes(plan.bytes),
        count(plan.row_groups as u64),
        count(plan.groups as u64)
    )
}
