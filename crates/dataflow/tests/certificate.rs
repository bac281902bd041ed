//! A run's certificate against a posterior made here: gradients by finite differences, Hessians from plain Jacobians, inverses by elimination.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use fisherflow_curvature::StructureKind;
use fisherflow_dataflow::{
    CatalogueSource, Certification, Cluster, Job, Meter, Noise, Outcome, Prior, RunSummary, Stage, run,
};
use fisherflow_network::{
    Arithmetic, Description, InputJacobian, LabelsDescription, Network, Precision, to_safetensors,
};
use fisherflow_spectra::{Simulation, is_held_out, plan_groups};
use fisherflow_store::{
    Catalogue, MatrixSet, OnBadObject, Output, StoreOptions, Stores, simulated_columns, write_simulated,
};

const D: usize = 20;
const K: usize = 3;
const SCALE: [f64; K] = [500.0, 0.8, 0.3];
const MEAN: [f64; K] = [4700.0, 2.3, -0.2];

/// Numbers in (-1, 1).
fn draw(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// `[W | b]` of each layer, `[out, in + 1]`, tanh between them; with `layers.0` alone a linear network.
struct Net {
    widths: Vec<usize>,
    weights: Vec<Vec<f64>>,
}

impl Net {
    fn random(widths: &[usize]) -> Self {
        let layers = widths.windows(2).enumerate();
        let weights = layers.map(|(l, w)| {
            let size = (3.0 / w[0] as f64).sqrt();
            draw(w[1] * (w[0] + 1), 5 + l as u64).iter().map(|x| size * x).collect()
        });
        Self {
            widths: widths.to_vec(),
            weights: weights.collect(),
        }
    }

    fn name(layer: usize) -> String {
        format!("layers.{}", 2 * layer)
    }

    fn write(&self, folder: &Path) {
        let mut arrays = Vec::new();
        for (l, (w, values)) in self.widths.windows(2).zip(&self.weights).enumerate() {
            let rows = || values.chunks_exact(w[0] + 1);
            let weight: Vec<f64> = rows().flat_map(|row| row[..w[0]].to_vec()).collect();
            arrays.push((format!("{}.weight", Self::name(l)), vec![w[1], w[0]], weight));
            let bias = rows().map(|row| row[w[0]]).collect();
            arrays.push((format!("{}.bias", Self::name(l)), vec![w[1]], bias));
        }
        let arrays = arrays
            .iter()
            .map(|(name, shape, values)| (name.as_str(), shape.as_slice(), values.as_slice()));
        std::fs::write(
            folder.join("network.safetensors"),
            to_safetensors(arrays, HashMap::new()).unwrap(),
        )
        .unwrap();
    }

    fn said(&self) -> Description {
        let mut layers = vec!["dense".to_owned()];
        for _ in 2..self.widths.len() {
            layers.extend(["tanh".to_owned(), "dense".to_owned()]);
        }
        Description {
            layers: Some(layers.iter().map(|layer| layer.parse().unwrap()).collect()),
            input_mean: Some(vec![1.0]),
            input_scale: Some(vec![0.1]),
            labels: Some(LabelsDescription {
                names: Some(Simulation::LABELS.map(str::to_owned).to_vec()),
                mean: Some(MEAN.to_vec()),
                scale: Some(SCALE.to_vec()),
                ..LabelsDescription::default()
            }),
        }
    }

    fn outputs(&self, x: &[f64]) -> Vec<f64> {
        let mut a = x.to_vec();
        for (l, (w, weights)) in self.widths.windows(2).zip(&self.weights).enumerate() {
            a.push(1.0);
            let linear = weights
                .chunks_exact(w[0] + 1)
                .map(|row| row.iter().zip(&a).map(|(w, a)| w * a).sum::<f64>());
            a = linear
                .map(|z| if l + 1 < self.weights.len() { z.tanh() } else { z })
                .collect();
        }
        a
    }
}

/// Inputs and normalised labels of the catalogue's rows, in the sums and held out.
#[derive(Default)]
struct Stars {
    training: Vec<(Vec<f64>, Vec<f64>)>,
    held_out: Vec<(Vec<f64>, Vec<f64>)>,
}

impl Stars {
    fn read(folder: &Path) -> Self {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let uri = folder.join("catalogue");
        let columns = simulated_columns();
        let catalogue = Catalogue::open(&stores, uri.to_str().unwrap(), &columns, OnBadObject::Fail).unwrap();
        let mut stars = Self::default();
        for group in plan_groups(catalogue.shards().iter().cloned(), 50, catalogue.folder()) {
            for batch in catalogue.fetch(&group, 16, 1 << 20) {
                let batch = batch.unwrap();
                for row in 0..batch.n_rows() {
                    let x = batch.flux[row * D..(row + 1) * D]
                        .iter()
                        .map(|f| (f - 1.0) / 0.1)
                        .collect();
                    let labels = &batch.labels[row * K..(row + 1) * K];
                    let y = (0..K).map(|k| (labels[k] - MEAN[k]) / SCALE[k]).collect();
                    if is_held_out(batch.holdout[row], 0.2) {
                        stars.held_out.push((x, y));
                    } else {
                        stars.training.push((x, y));
                    }
                }
            }
        }
        stars
    }
}

fn simulate(folder: &Path) {
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let uri = folder.join("catalogue");
    write_simulated(&stores, uri.to_str().unwrap(), &Simulation::new(D, 7), 200, 33).unwrap();
}

fn job(folder: &Path, net: &Net, structure: StructureKind, delta: f64, output: &str) -> Job {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let catalogue = CatalogueSource::new(path("catalogue"), simulated_columns());
    let mut job = Job::new(
        path("network.safetensors"),
        catalogue,
        Prior::Fixed(delta),
        path(output),
    );
    job.network.said = net.said();
    job.curvature.structure = structure.into();
    job.compute.arithmetic.precision = Precision::F64;
    job.compute.batch = 16;
    job.compute.group = Some(50);
    job.compute.holdout_fraction = 0.2;
    job
}

fn done(job: Job) -> RunSummary {
    match run(Arc::new(job), Stage::Run, &Cluster::alone(2), Meter::silent()) {
        Ok(Outcome::Done(summary)) => *summary,
        other => panic!("{other:?}"),
    }
}

/// R^-1 in normalised units, R as the run found it.
fn label_precision(summary: &RunSummary) -> Vec<f64> {
    let r = &summary.noise.as_ref().unwrap().covariance;
    inverse(
        &(0..K * K)
            .map(|at| r[at] / SCALE[at / K] / SCALE[at % K])
            .collect::<Vec<_>>(),
    )
}

/// By Gauss-Jordan elimination.
fn inverse(matrix: &[f64]) -> Vec<f64> {
    let p = matrix.len().isqrt();
    let mut rows: Vec<Vec<f64>> = matrix.chunks_exact(p).map(<[f64]>::to_vec).collect();
    for (i, row) in rows.iter_mut().enumerate() {
        row.extend((0..p).map(|j| if i == j { 1.0 } else { 0.0 }));
    }
    for c in 0..p {
        let pivot = (c..p)
            .max_by(|&i, &j| rows[i][c].abs().total_cmp(&rows[j][c].abs()))
            .unwrap();
        rows.swap(c, pivot);
        let d = rows[c][c];
        rows[c].iter_mut().for_each(|x| *x /= d);
        let own = rows[c].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != c) {
            let f = row[c];
            row.iter_mut().zip(&own).for_each(|(x, y)| *x -= f * y);
        }
    }
    rows.into_iter().flat_map(|row| row[p..].to_vec()).collect()
}

fn quadratic(m: &[f64], v: &[f64], w: &[f64]) -> f64 {
    let rows = m.chunks_exact(v.len()).zip(v);
    rows.map(|(row, v)| v * row.iter().zip(w).map(|(m, w)| m * w).sum::<f64>())
        .sum()
}

/// `[n][width]`.
type Rows = Vec<Vec<f64>>;

/// Rows of the weight Jacobian, K a star, by the network's own captures.
fn jacobian(folder: &Path, net: &Net, stars: &[(Vec<f64>, Vec<f64>)]) -> Vec<Vec<f64>> {
    let arithmetic = Arithmetic {
        precision: Precision::F64,
        threads: 1,
    };
    let bytes = std::fs::read(folder.join("network.safetensors")).unwrap();
    let network = Network::from_safetensors(&bytes, &net.said(), arithmetic).unwrap();
    let flux: Vec<f64> = stars.iter().flat_map(|(x, _)| x).map(|x| x * 0.1 + 1.0).collect();
    let forward = network.forward(&flux).unwrap();
    let captures = network.backward(&forward, InputJacobian::NotWanted).unwrap().captures;
    let sides: Vec<(Rows, Vec<Rows>)> = captures
        .iter()
        .map(|c| {
            let g = c.output_grad.squeeze(2).unwrap().to_vec3().unwrap();
            (c.input.squeeze(1).unwrap().to_vec2().unwrap(), g)
        })
        .collect();
    let row = |n: usize, k: usize| {
        let outer = sides.iter().flat_map(move |(a, g)| {
            g[k][n]
                .iter()
                .flat_map(move |g| a[n].iter().chain([&1.0]).map(move |a| g * a))
        });
        outer.collect::<Vec<f64>>()
    };
    (0..stars.len())
        .flat_map(|n| (0..K).map(move |k| (n, k)))
        .map(|(n, k)| row(n, k))
        .collect()
}

/// `sum J^T Lam J + delta I` over some weights.
fn precision_of(rows: &[Vec<f64>], lam: &[f64], delta: f64) -> Vec<f64> {
    let p = rows[0].len();
    let mut h = vec![0.0; p * p];
    h.iter_mut().step_by(p + 1).for_each(|x| *x = delta);
    for star in rows.chunks_exact(K) {
        for (k, row) in star.iter().enumerate() {
            let weighed: Vec<f64> = (0..p)
                .map(|j| (0..K).map(|l| lam[k * K + l] * star[l][j]).sum())
                .collect();
            for (h, x) in h.chunks_exact_mut(p).zip(row) {
                h.iter_mut().zip(&weighed).for_each(|(h, w)| *h += x * w);
            }
        }
    }
    h
}

fn sigmas(rows: &[Vec<f64>], inverse: &[f64]) -> Vec<f64> {
    rows.iter().map(|row| quadratic(inverse, row, row).sqrt()).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    0.5 * (values[(n - 1) / 2] + values[n / 2])
}

/// A block's P from `posterior/hessian/`.
fn kfac_precision(output: &Output, block: usize, n_spectra: f64, delta: f64) -> Vec<f64> {
    let stored = output
        .read_matrices(MatrixSet::Hessian, &format!("block-{block:03}"))
        .unwrap();
    let find = |factor: &str| stored.matrices.iter().find(|matrix| matrix.factor == factor).unwrap();
    let (a, g) = (find("kron_a"), find("kron_g"));
    let p = a.rows * g.rows;
    let value = |i: usize, j: usize| {
        let prior = if i == j { delta } else { 0.0 };
        g.values[(i / a.rows) * g.rows + j / a.rows] * a.values[(i % a.rows) * a.rows + j % a.rows] / n_spectra + prior
    };
    (0..p * p).map(|at| value(at / p, at % p)).collect()
}

#[test]
fn ratio_and_newton_step_of_a_kfac_run_are_those_of_dense_matrices() {
    let folder = tempfile::tempdir().unwrap();
    let net = Net::random(&[D, 8, 6, K]);
    simulate(folder.path());
    net.write(folder.path());
    let delta = 0.7;
    let summary = done(job(folder.path(), &net, StructureKind::Kfac, delta, "out"));
    let certificate = summary.certificate.as_ref().unwrap();
    let stars = Stars::read(folder.path());
    let comparison = certificate.comparison.as_ref().unwrap();
    assert_eq!(
        comparison.n_spectra,
        stars.training.len() as u64,
        "all of them, as they are fewer than 2,000"
    );
    assert_eq!(comparison.n_stars, stars.held_out.len() as u64);
    assert_eq!(summary.fit.in_sums, comparison.n_spectra);

    let lam = label_precision(&summary);
    let (training, held_out) = (
        jacobian(folder.path(), &net, &stars.training),
        jacobian(folder.path(), &net, &stars.held_out),
    );
    let joint = inverse(&precision_of(&training, &lam, delta));
    let exact = sigmas(&held_out, &joint);
    let p = training[0].len();
    let gamma = (0..p).map(|i| 1.0 - delta * joint[i * (p + 1)]).sum::<f64>();
    assert!((comparison.effective_parameters / gamma - 1.0).abs() < 1e-7);

    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let output = Output::open(&stores, &summary.output).unwrap();
    let mut variances = vec![0.0; held_out.len()];
    let mut start = 0;
    let mut decrements = 0.0;
    let gradient = finite_differences(&net, &stars, &lam, delta);
    for (layer, block) in certificate.blocks.iter().enumerate() {
        let size = net.weights[layer].len();
        let cut =
            |rows: &[Vec<f64>]| -> Vec<Vec<f64>> { rows.iter().map(|row| row[start..start + size].to_vec()).collect() };
        let kfac = inverse(&kfac_precision(&output, layer, stars.training.len() as f64, delta));
        let own = sigmas(&cut(&held_out), &kfac);
        let alone = sigmas(&cut(&held_out), &inverse(&precision_of(&cut(&training), &lam, delta)));
        let ratio = median(own.iter().zip(&alone).map(|(own, exact)| own / exact).collect());
        let found = block.sigma_ratio.unwrap();
        assert!(
            (found.median / ratio - 1.0).abs() < 1e-7,
            "{layer}: {} {ratio}",
            found.median
        );
        variances.iter_mut().zip(&own).for_each(|(sum, own)| *sum += own * own);

        let g = &gradient[start..start + size];
        let newton = block.newton.unwrap();
        let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(
            (newton.gradient_norm / norm - 1.0).abs() < 1e-6,
            "{layer}: {} {norm}",
            newton.gradient_norm
        );
        let decrement = quadratic(&kfac, g, g);
        assert!((newton.decrement / decrement.sqrt() - 1.0).abs() < 1e-6, "{layer}");
        decrements += decrement;
        assert!(block.answer_error.unwrap() < 1e-10, "{block:?}");
        start += size;
    }
    let ratio = median(
        variances
            .iter()
            .zip(&exact)
            .map(|(v, exact)| v.sqrt() / exact)
            .collect(),
    );
    let found = comparison.structures[0].ratio.unwrap();
    assert!((found.median / ratio - 1.0).abs() < 1e-7, "{} {ratio}", found.median);
    assert!((certificate.newton.unwrap().decrement / decrements.sqrt() - 1.0).abs() < 1e-6);
    // Random weights are far from any minimum.
    assert!(
        certificate
            .verdict
            .iter()
            .any(|said| said.starts_with("theta is no minimum")),
        "{certificate:?}"
    );

    // A subset sums the structures itself, and every structure may be asked for. Nothing changes in what is predicted.
    let mut other = job(folder.path(), &net, StructureKind::Kfac, delta, "other");
    other.certificate = Certification {
        spectra: Some(60),
        stars: 20,
        compare: vec![StructureKind::Kfac, StructureKind::Block, StructureKind::Diagonal],
        full_pass: false,
        hessian_steps: 12,
    };
    let other = done(other);
    assert_ne!(other.run_id, summary.run_id);
    assert_eq!(other.blocks, summary.blocks);
    assert_eq!((&other.intrinsic, &other.pulls), (&summary.intrinsic, &summary.pulls));
    let certificate = other.certificate.unwrap();
    let comparison = certificate.comparison.unwrap();
    assert!(
        (50..=70).contains(&comparison.n_spectra) && (15..=25).contains(&comparison.n_stars),
        "{comparison:?}"
    );
    let [own, kfac, block, diagonal] = &comparison.structures[..] else {
        panic!("{comparison:?}");
    };
    let names = [&own.structure, &kfac.structure, &block.structure, &diagonal.structure];
    assert_eq!(names, ["run", "kfac", "block", "diagonal"]);
    assert_eq!(
        (own.ratio, own.effective_parameters),
        (kfac.ratio, kfac.effective_parameters)
    );
    assert!(block.ratio.unwrap().spearman > diagonal.ratio.unwrap().spearman);
    assert!(certificate.newton.is_none() && certificate.answer_error.is_none());
    let share = certificate.curvature.unwrap();
    assert!(
        share.steps == 12 && share.highest > delta && share.negative > 0.0,
        "{share:?}"
    );

    let mut none = job(folder.path(), &net, StructureKind::Kfac, delta, "none");
    none.certificate.spectra = Some(0);
    none.certificate.full_pass = false;
    let none = done(none);
    assert_eq!(none.certificate, None);
    assert_eq!((&none.intrinsic, &none.pulls), (&summary.intrinsic, &summary.pulls));
    assert_eq!(
        covariances(&none),
        covariances(&summary),
        "no prediction depends on a certificate"
    );
    assert!(none.files.iter().all(|file| !file.path.contains("certificate")));
}

/// What was predicted.
fn covariances(summary: &RunSummary) -> String {
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let table = fisherflow_store::Table::open(&stores, &format!("{}/predictions", summary.output)).unwrap();
    let batches: Vec<_> = table
        .batches(Some(&["cov", "cov_weights"]), 1000)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(!batches.is_empty());
    format!("{batches:?}")
}

/// The gradient of `E = 1/2 sum r^T Lam r + 1/2 delta |theta|^2`, layer after layer, by central differences.
fn finite_differences(net: &Net, stars: &Stars, lam: &[f64], delta: f64) -> Vec<f64> {
    let mut moved = Net {
        widths: net.widths.clone(),
        weights: net.weights.clone(),
    };
    let energy = |net: &Net| -> f64 {
        let data = stars.training.iter().map(|(x, y)| {
            let r: Vec<f64> = net.outputs(x).iter().zip(y).map(|(f, y)| y - f).collect();
            quadratic(lam, &r, &r)
        });
        let prior = net.weights.iter().flatten().map(|w| delta * w * w);
        0.5 * (data.sum::<f64>() + prior.sum::<f64>())
    };
    let mut gradient = Vec::new();
    for layer in 0..net.weights.len() {
        for at in 0..net.weights[layer].len() {
            let here = net.weights[layer][at];
            let mut at_distance = |h: f64| {
                moved.weights[layer][at] = here + h;
                energy(&moved)
            };
            let h = 1e-3;
            let near = (at_distance(h) - at_distance(-h)) / (2.0 * h);
            let far = (at_distance(2.0 * h) - at_distance(-2.0 * h)) / (4.0 * h);
            moved.weights[layer][at] = here;
            gradient.push((4.0 * near - far) / 3.0);
        }
    }
    gradient
}

#[test]
fn exact_structures_agree_with_exact() {
    let folder = tempfile::tempdir().unwrap();
    let net = Net::random(&[D, 8, 6, K]);
    simulate(folder.path());
    net.write(folder.path());
    // Of all training spectra the run's own posterior is compared; of fewer, one of the same structure.
    for (spectra, output) in [(2000, "all"), (40, "some")] {
        let mut full = job(folder.path(), &net, StructureKind::Full, 0.7, output);
        full.certificate.spectra = Some(spectra);
        let certificate = done(full).certificate.unwrap();
        let comparison = certificate.comparison.unwrap();
        for ratio in [comparison.structures[0].ratio.unwrap(), comparison.blocks[0].unwrap()] {
            for value in [ratio.median, ratio.p05, ratio.p95, ratio.spearman.unwrap()] {
                assert!((value - 1.0).abs() < 1e-9, "{output}: {ratio:?}");
            }
        }
        assert!(
            certificate.verdict[0].contains("agree with exact within 5 %"),
            "{:?}",
            certificate.verdict
        );
        assert!(certificate.answer_error.unwrap() < 1e-9);
    }
}

#[test]
fn a_linear_network_at_its_minimum_has_no_newton_decrement() {
    let folder = tempfile::tempdir().unwrap();
    let (mut net, delta, p) = (Net::random(&[D, K]), 0.3, D + 1);
    simulate(folder.path());
    let stars = Stars::read(folder.path());
    // Where R is given every row is in the sums. (lam_k sum a a^T + delta) theta_k = lam_k sum y_k a, in closed form.
    let variances = [2500.0, 0.01, 0.004];
    let mut precisions = Vec::new();
    for (k, variance) in variances.iter().enumerate() {
        let lam = SCALE[k] * SCALE[k] / variance;
        let (mut m, mut right) = (vec![0.0; p * p], vec![0.0; p]);
        m.iter_mut().step_by(p + 1).for_each(|x| *x = delta);
        for (x, y) in stars.training.iter().chain(&stars.held_out) {
            let a: Vec<f64> = x.iter().copied().chain([1.0]).collect();
            for i in 0..p {
                (0..p).for_each(|j| m[i * p + j] += lam * a[i] * a[j]);
                right[i] += lam * y[k] * a[i];
            }
        }
        let solved = inverse(&m);
        for (i, row) in solved.chunks_exact(p).enumerate() {
            net.weights[0][k * p + i] = row.iter().zip(&right).map(|(m, r)| m * r).sum();
        }
        precisions.push(m);
    }
    let certified = |net: &Net, output: &str| {
        net.write(folder.path());
        let mut job = job(folder.path(), net, StructureKind::Block, delta, output);
        job.noise = Noise::Covariance(
            (0..K)
                .map(|k| (0..K).map(|l| if k == l { variances[k] } else { 0.0 }).collect())
                .collect(),
        );
        let summary = done(job);
        assert_eq!(summary.fit.in_sums, 200);
        summary.certificate.unwrap()
    };
    let at = certified(&net, "at");
    assert!(at.newton.unwrap().decrement < 1e-6, "{:?}", at.newton);
    assert!(
        at.verdict.iter().all(|said| !said.contains("no minimum")),
        "{:?}",
        at.verdict
    );
    // A step away the decrement is the length of the step in posterior standard deviations.
    let step: Vec<f64> = draw(K * p, 3).iter().map(|x| 0.1 * x).collect();
    let expected: f64 = precisions
        .iter()
        .zip(step.chunks_exact(p))
        .map(|(m, s)| quadratic(m, s, s))
        .sum();
    net.weights[0].iter_mut().zip(&step).for_each(|(w, s)| *w += s);
    let away = certified(&net, "away");
    let found = away.newton.unwrap().decrement;
    assert!(
        (found / expected.sqrt() - 1.0).abs() < 1e-8,
        "{found} {}",
        expected.sqrt()
    );
    // The exact posterior of a linear network is that of its one layer.
    let ratio = at.comparison.unwrap().structures[0].ratio.unwrap();
    assert!((ratio.median - 1.0).abs() < 1e-9, "{ratio:?}");
}
