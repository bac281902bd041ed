//! `plan`: what a run would do and take, without touching anything.

use std::sync::Arc;

use fisherflow_dataflow::{
    CataloguePlan, ClusterPlan, ClusterQuestion, DualPlan, FoundRun, Job, MemoryPlan, ReleasePlan, RunPlan,
};
use fisherflow_store::LargestRowGroup;

use crate::exit_code::CliError;
use crate::printing::{Grid, Page, bytes, count, counted, flop};
use crate::progress::time;

/// Prints the plan of a run, for people or as JSON.
///
/// # Errors
/// Whatever would end the run before its first pass.
pub fn plan(job: Job, asked: &ClusterQuestion, json: bool) -> Result<(), CliError> {
    let plan = fisherflow_dataflow::plan(Arc::new(job), asked)?;
    if json {
        return Ok(Page::print_json(&plan)?);
    }
    let mut page = page(&plan, asked.workers);
    of_cluster(&plan, &mut page);
    Ok(page.print()?)
}

fn page(plan: &RunPlan, workers: usize) -> Page {
    let mut page = Page::new();
    page.facts(&facts(plan));
    let grids = [Some(blocks(plan)), chosen(plan), corrections(plan), Some(stages(plan))];
    for grid in grids.iter().flatten() {
        page.gap().grid(grid);
    }
    page.line(said_of_memory(&plan.memory, workers));
    if let Some(said) = large_row_groups(plan) {
        page.line(said);
    }
    if let Some(dual) = &plan.dual {
        page.gap().facts(&of_dual(dual));
    }
    page
}

/// What is computed, and from what.
fn facts(plan: &RunPlan) -> Vec<(&'static str, String)> {
    let network = &plan.network;
    let mut facts = vec![
        ("output", format!("{}, {}", plan.output, bytes(plan.output_bytes))),
        ("run", plan.run_id.clone()),
    ];
    facts.extend(plan.found.as_ref().map(|found| ("found there", said_of_found(found))));
    facts.extend([
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
        ("products", products(plan)),
    ]);
    facts.extend(plan.release.as_ref().map(|release| ("release", said_of(release))));
    facts.push(("groups", groups(plan)));
    let of_predict = plan.predict.iter().flat_map(|predict| &predict.skipped);
    let skipped = plan.fit.skipped.iter().chain(of_predict);
    facts.extend(skipped.map(|skipped| ("left out", format!("{}: {}", skipped.object, skipped.reason))));
    facts
}

fn products(plan: &RunPlan) -> String {
    let mut said = plan.precision.clone();
    if plan.kernel != plan.precision {
        said += &format!(" ({})", plan.kernel);
    }
    if plan.precision != plan.precision_asked {
        said += &format!(
            ": {} was asked for, and is not exact enough for this network and its spectra",
            plan.precision_asked
        );
    }
    said
}

fn groups(plan: &RunPlan) -> String {
    let checkpoints = &plan.checkpoints;
    let mut said = format!(
        "of {} spectra of the fit or more; each leaves sums of {} in the store until the run is complete, {} in all",
        count(checkpoints.group),
        bytes(checkpoints.bytes),
        bytes(checkpoints.all_bytes)
    );
    if checkpoints.eigenpairs > 0 {
        said += &format!(", and the passes for eigenpairs {}", bytes(checkpoints.eigenpairs));
    }
    said
}

fn blocks(plan: &RunPlan) -> Grid {
    let mut grid = Grid::new(&["block", "structure", "weights", "sums", "sums FLOP", "inverse FLOP"]);
    for block in &plan.blocks {
        grid.row(vec![
            block.layer.clone(),
            block.structure.to_owned(),
            count(block.n_weights),
            bytes(block.sums_bytes),
            flop(block.sums_flops),
            flop(block.inverse_flops),
        ]);
    }
    grid
}

/// The structures that `auto` chose, if it did.
fn chosen(plan: &RunPlan) -> Option<Grid> {
    let mut grid = Grid::new(&["layer", "chosen by auto", "why"]);
    for choice in &plan.chosen {
        grid.row(vec![
            choice.layer.clone(),
            choice.structure.to_owned(),
            choice.why.clone(),
        ]);
    }
    (!plan.chosen.is_empty()).then_some(grid)
}

/// The second pass over spectra, if there is one.
fn corrections(plan: &RunPlan) -> Option<Grid> {
    let mut grid = Grid::new(&["second pass", "eigenbases", "eigenbases FLOP", "sums", "sums FLOP"]);
    for block in &plan.blocks {
        if let Some(facts) = block.correction {
            grid.row(vec![
                block.layer.clone(),
                bytes(facts.bases_bytes),
                flop(facts.bases_flops),
                bytes(facts.sums_bytes),
                flop(facts.sums_flops),
            ]);
        }
    }
    let is_there = plan.blocks.iter().any(|block| block.correction.is_some());
    is_there.then_some(grid)
}

fn stages(plan: &RunPlan) -> Grid {
    let (flops, memory) = (&plan.flops, &plan.memory);
    let mut grid = Grid::new(&["stage", "FLOP", "memory"]);
    for (stage, operations, memory) in [
        ("fit", flops.fit, memory.fit),
        ("invert", flops.invert, memory.invert),
        ("certificate", flops.certificate, memory.certify),
        ("predict", flops.predict, memory.predict),
    ] {
        grid.row(vec![stage.to_owned(), flop(operations), bytes(memory)]);
    }
    grid
}

fn said_of_memory(memory: &MemoryPlan, workers: usize) -> String {
    format!(
        "memory is of one process with {}, beside {} for the program, the network and its spectra; {} of it for the batch of each worker: as \
         much less as compute.batch is{}",
        counted(workers as u64, "worker", "workers"),
        bytes(memory.beside),
        bytes(memory.batch),
        match memory.kept_spectra {
            0 => String::new(),
            kept => format!(
                ". Up to {} more keep spectra between passes (compute.kept_spectra)",
                bytes(kept)
            ),
        }
    )
}

/// What a run would do with what is at its output.
fn said_of_found(found: &FoundRun) -> String {
    let begun = format!("begun {} on {}", found.started, found.host);
    match (found.is_planned, &found.complete) {
        (true, Some(since)) => format!("this run, complete since {since}: nothing is left to do"),
        (true, None) => format!("this run, {begun}, not complete: a run goes on with what is done"),
        (false, Some(since)) => format!(
            "run {}, complete since {since}: only --overwrite replaces it",
            found.run_id
        ),
        (false, None) => format!(
            "run {}, {begun}, not complete: only --overwrite replaces it",
            found.run_id
        ),
    }
}

/// What the next release of a line changes.
fn said_of(release: &ReleasePlan) -> String {
    let number = release.number;
    if release.is_released {
        return format!("none: release {} is of the same inputs", number - 1);
    }
    format!("{number} of {}: {}", release.line, release.changes)
}

/// What each worker of a cluster does, and how long all of it takes.
fn of_cluster(run: &RunPlan, page: &mut Page) {
    let plan = &run.cluster;
    let worker = &plan.worker;
    let all = (plan.processes * plan.workers) as u64;
    let mut facts = vec![("cluster", shares(plan))];
    // Where each row group is a group of its own, no smaller group cuts them.
    let is_cut_whole = run.fit.row_groups <= run.fit.groups;
    facts.extend(without_groups(plan.groups, all, is_cut_whole).map(|said| ("too few groups", said)));
    facts.push((
        "reduction",
        format!(
            "{} a group in {}, {} of all groups; a worker reads at most {}",
            bytes(plan.checkpoint),
            counted(plan.slices, "slice", "slices"),
            bytes(plan.checkpoint.saturating_mul(plan.groups)),
            bytes(worker.checkpoints_read)
        ),
    ));
    page.gap().facts(&facts);
    let mut grid = Grid::new(&["of each worker", "bytes", "of all"]);
    let checkpoints = plan.checkpoint.saturating_mul(plan.groups);
    for (what, of_one, of_all) in [
        (
            "spectra read from the store",
            worker.spectra_read,
            worker.spectra_read.saturating_mul(all),
        ),
        (
            "groups' sums written to the store",
            worker.checkpoints_written,
            checkpoints,
        ),
        (
            "groups' sums read from the store, at most",
            worker.checkpoints_read,
            checkpoints,
        ),
        ("sent over the network", worker.sent, worker.sent.saturating_mul(all)),
    ] {
        grid.row(vec![what.to_owned(), bytes(of_one), bytes(of_all)]);
    }
    grid.row(vec![
        "received, by the owner of the largest block".to_owned(),
        bytes(worker.received),
        String::new(),
    ]);
    grid.row(vec![
        "memory of a process".to_owned(),
        bytes(plan.memory.peak()),
        String::new(),
    ]);
    page.gap().grid(&grid);
    let mut stages = Grid::new(&["stage", "FLOP", "spectra read", "time"]);
    for stage in &plan.stages {
        stages.row(vec![
            stage.stage.to_owned(),
            flop(stage.flops),
            bytes(stage.read),
            time(stage.seconds),
        ]);
    }
    stages.row(vec!["all".to_owned(), String::new(), String::new(), time(plan.seconds)]);
    let rates = &plan.rates;
    page.gap().grid(&stages).line(format!(
        "times at {}/s a worker over spectra, {:.0} MB/s decoded, {}/s in inverses, {:.0} MB/s a process from the store, {:.0} MB/s over the \
         network, {:.3} s a group, {:.1} s to start; unless given, as measured on {}",
        flop(rates.worker_flops),
        rates.decode_bytes / 1e6,
        flop(rates.inverse_flops),
        rates.store_bytes / 1e6,
        rates.network_bytes / 1e6,
        rates.group_s,
        rates.start_s,
        rates.measured_on
    ));
}

/// What falls to the worker that has most.
fn shares(plan: &ClusterPlan) -> String {
    format!(
        "{} of {}: {} in {}, at most {} and {} a worker",
        counted(plan.processes as u64, "process", "processes"),
        counted(plan.workers as u64, "worker", "workers"),
        counted(plan.spectra, "spectrum", "spectra"),
        counted(plan.groups, "group", "groups"),
        counted(plan.worker.most_spectra, "spectrum", "spectra"),
        counted(plan.worker.groups, "group", "groups")
    )
}

/// Whoever wrote the file.
const WITH_SMALLER_ROW_GROUPS: &str =
    "as by pyarrow.parquet as pq: pq.write_table(pq.read_table(file), file, row_group_size=1000)";

/// Of workers for whom there is no group, and what gives them one; `None` where all have some. `is_cut_whole`: each row group is a group.
fn without_groups(groups: u64, workers: u64, is_cut_whole: bool) -> Option<String> {
    let idle = workers.checked_sub(groups).filter(|&idle| idle > 0)?;
    let get = if idle == 1 {
        "gets no group of its own"
    } else {
        "get no group of their own"
    };
    let remedy = if is_cut_whole {
        format!("a file is cut at its row groups alone: write it again with smaller ones, {WITH_SMALLER_ROW_GROUPS}")
    } else {
        "a smaller [compute] group makes more of them, down to one a row group".to_owned()
    };
    Some(format!("{} {get}: {remedy}", counted(idle, "worker", "workers")))
}

/// Where most memory beside the blocks goes to row groups: which is the largest, and what makes them smaller.
fn large_row_groups(plan: &RunPlan) -> Option<String> {
    let catalogues = plan.predict.iter().chain([&plan.fit]);
    let largest = catalogues.filter_map(|catalogue| catalogue.largest_row_group.as_ref());
    said_of_row_groups(&plan.memory, largest.max_by_key(|largest| largest.bytes)?)
}

fn said_of_row_groups(memory: &MemoryPlan, largest: &LargestRowGroup) -> Option<String> {
    (memory.row_groups > memory.beside / 2).then(|| {
        format!(
            "{} of the {} hold row groups, which are read whole; the largest, of {} in {}, takes {}: as much less in files written again \
             with smaller ones, {WITH_SMALLER_ROW_GROUPS}",
            bytes(memory.row_groups),
            bytes(memory.beside),
            counted(largest.rows, "spectrum", "spectra"),
            largest.object,
            bytes(largest.bytes)
        )
    })
}

/// What a dual block takes.
fn of_dual(dual: &DualPlan) -> Vec<(&'static str, String)> {
    let (cost, seconds) = (&dual.cost, &dual.seconds);
    let step = |flops: f64, seconds: f64| {
        format!(
            "{}, {} a worker, about {seconds:.3} s",
            flop(flops),
            flop(flops / dual.workers as f64)
        )
    };
    let kept = if dual.in_memory {
        format!("{} in the memory of each process", bytes(dual.process_bytes))
    } else {
        format!(
            "{} in the memory of each process, {} of tiles in the scratch folder, {} a worker",
            bytes(dual.process_bytes),
            bytes(dual.scratch_bytes),
            bytes(dual.scratch_bytes / dual.workers as u64)
        )
    };
    let too_many = dual.most_rows.filter(|&most| cost.rows > most).map(|most| {
        let said = format!(
            "a prior that is found needs the eigenvalues of that matrix, of at most {} rows: a run that comes to more ends there; give \
             prior.precision a number",
            count(most)
        );
        ("refused", said)
    });
    let facts = [
        (
            "dual",
            format!(
                "{}: Gram matrix of {} rows in {} chunks; rows {}, factor {}",
                dual.layer,
                count(cost.rows),
                count(cost.chunks),
                bytes(cost.row_bytes),
                bytes(cost.tile_bytes)
            ),
        ),
        ("kept", kept),
        ("Gram matrix", step(cost.gram_flops, seconds.gram)),
        ("Cholesky", step(cost.cholesky_flops, seconds.cholesky)),
        (
            "effective parameters",
            step(cost.trace_flops, seconds.effective_parameters),
        ),
        (
            "prediction",
            format!(
                "{} a spectrum, about {:.3} s for all of them",
                flop(cost.predict_flops),
                seconds.predict
            ),
        ),
        (
            "times",
            format!(
                "on {} workers of {}/s each, as measured here in f64",
                dual.workers,
                flop(dual.worker_rate)
            ),
        ),
    ];
    facts.into_iter().chain(too_many).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_groups_are_named_where_memory_goes_to_them() {
        let largest = LargestRowGroup {
            object: "/survey/all.parquet".to_owned(),
            rows: 20_000,
            bytes: 1_160_000_000,
        };
        let memory = |row_groups| MemoryPlan {
            beside: 2 << 30,
            kept_spectra: 0,
            row_groups,
            batch: 0,
            fit: 0,
            invert: 0,
            predict: 0,
            certify: 0,
        };
        assert_eq!(said_of_row_groups(&memory(1 << 30), &largest), None);
        let said = said_of_row_groups(&memory(3 << 29), &largest).unwrap();
        for part in [
            "20,000 spectra in /survey/all.parquet",
            "pq.write_table(pq.read_table(file)",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn workers_without_a_group_are_told_what_gives_them_one() {
        assert_eq!(without_groups(8, 8, true), None);
        assert_eq!(without_groups(9, 8, false), None);
        let said = without_groups(1, 8, true).unwrap();
        assert!(
            said.starts_with("7 workers get no group of their own: a file is cut at its row groups"),
            "{said}"
        );
        let said = without_groups(7, 8, false).unwrap();
        assert!(
            said.starts_with("1 worker gets no group of its own: a smaller [compute] group"),
            "{said}"
        );
    }
}
