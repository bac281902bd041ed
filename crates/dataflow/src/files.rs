//! What goes into which file of the output, and with which metadata.

use fisherflow_curvature::{
    BlockCurvature, BlockPlan, CurvatureByRow, CurvatureKind, KroneckerBases, Matrix, RowByRow,
};
use fisherflow_posterior::{
    BlockCertificate, BlockInfo, CellScatter, Certificate, ComparedStructure, EvidencePoint, Factor, HoldoutPoint,
    HoldoutPrior, NamedMatrix, Precision, ScatterEstimate, SigmaRatio, bases_from_matrices, bases_matrices,
    hessian_from_matrices, hessian_matrices, precision_from_matrices,
};
use fisherflow_spectra::SpectrumBatch;
use fisherflow_store::{
    Column, FileMetadata, IntrinsicRow, JacobianSchema, JacobianWriter, MarginalRows, MatrixSet, PredictionSchema,
    PredictionWriter, RowKeys, StoredMatrices, StoredMatrix, TablePart, WrittenFile,
};

use crate::context::Context;
use crate::error::RunError;
use crate::fail_point::FailPoint;
use crate::job::{Noise, Prior};
use crate::passes::differentiated::Differentiated;
use crate::run::prior_choice::EvidenceOf;

/// Of the files' columns and flags: another number where they are others. 2: `file` and `row` in predictions and Jacobians.
/// 3: WEIGHTS_IN_F32 and UNLIKE_FIT among the flags. 4: kept moments in microseconds.
/// 5: n_terms of blocks. 6: effective_parameters of holdout.parquet are of the blocks without a given prior precision, as those of evidence.parquet;
/// every file has the hash of the fit's catalogue.
pub(crate) const SCHEMA_VERSION: &str = "6";

/// How the weights are laid out.
pub(crate) const WEIGHTS: &str = "layer by layer [W | b], shape [out, columns], columns = in, and 1 more for the bias, last, where there is one; row-major: index = out * columns + in";

/// Who made a file, in which run, of which network.
pub(crate) fn origin(context: &Context) -> FileMetadata {
    FileMetadata::default()
        .with("fisherflow.version", env!("CARGO_PKG_VERSION"))
        .with("fisherflow.run_id", context.run_id.as_str())
        .with("fisherflow.model_sha256", context.network_sha256.as_str())
}

/// The metadata of every file: what run it is of, which catalogue its sums are over, and every convention that its numbers follow.
pub(crate) fn metadata(context: &Context) -> FileMetadata {
    let labels = context.network.labels();
    let mut convention = serde_json::json!({
        "curvature": context.job.curvature.kind.name(),
        "hessian": curvature_in_words(context.job.curvature.kind),
        "posterior_precision": "P = H + prior_precision * I",
        "weights": WEIGHTS,
        "kfac": "H ~ (kron_g (x) kron_a) / n_terms, both factors sums; n_terms, in posterior/blocks.parquet: n_spectra, times the positions that share the weights where weight_sharing is expand",
        "ekfac": "H ~ Q diag(eigenvalues) Q^T, Q = g_eigenvectors (x) a_eigenvectors, eigenvalues [out, columns] a sum",
        "weight_sharing": context.job.curvature.options.weight_sharing,
        "split_bias": context.job.curvature.options.split_bias,
        "dual": "H = J^T J over the weights of all its layers together: row (n, k) of J is, layer after layer, gradients[n K + k] (x) [inputs[n]; 1] (without a bias (x) inputs[n]; \
            where positions share a layer's weights it has no inputs, and gradients[n K + k] are the weights' own), \
            spectra in the order of the files block-*-rows-*; gram_cholesky L: L L^T = J J^T + prior_precision * I; \
            P^-1 = (I - J^T (L L^T)^-1 J) / prior_precision",
        "low_rank": "H ~ U diag(eigenvalues) U^T + max(diagonal - diag(U diag(eigenvalues) U^T), 0); inverse: diag(diagonal) - low_rank low_rank^T",
        "normalised_labels": "label = output * label_scale + label_mean",
        "label_mean": labels.mean,
        "label_scale": labels.scale,
        "prior_precision": context.prior_precision(),
        "noise": match &context.job.noise {
            Noise::Holdout => serde_json::json!("from held-out residuals"),
            Noise::Covariance(covariance) => serde_json::json!(covariance),
        },
        "label_precision": format!(
            "{}, in normalised label units: R the noise, S_n the covariance of a spectrum's own label errors (0 without)",
            if context.job.calibration.errors_in_variables {
                "Lam_n = (R + S_n + J_x C_flux J_x^T)^-1 (errors in variables), 0 where J_x C_flux J_x^T alone is more than 1e5 times R's standard deviation"
            } else {
                "Lam_n = (R + S_n)^-1"
            }
        ),
        "masked_pixels": "flux := mean of the held-out spectra at the pixel, variance := their variance there",
        "products": context.kernel,
    });
    let from = match context.job.prior {
        Prior::Fixed(_) => None,
        Prior::Evidence => {
            Some("by evidence: it maximises the marginal likelihood over the blocks without a given one")
        }
        Prior::EvidencePerBlock => {
            Some("by evidence, block by block: each maximises the marginal likelihood over its own weights")
        }
        Prior::Holdout => Some("by held-out spectra: it makes their residuals most likely"),
    };
    if let Some(from) = from {
        convention["prior_precision_from"] = format!("{from}; null in files written before it was known").into();
    }
    if context.job.calibration.label_scale {
        convention["weights_part_scale"] = serde_json::json!(context.label_scale());
        convention["weights_part"] =
            "cov_weights = S J_theta P^-1 J_theta^T S, S = diag(weights_part_scale), in label units; null in files written before it was known"
                .into();
    }
    if context.cells.n_cells() > 1 {
        convention["cov_intrinsic"] =
            "that of the cell of label space that the PREDICTED labels are in: posterior/intrinsic.parquet".into();
    }
    origin(context)
        .with("fisherflow.schema_version", SCHEMA_VERSION)
        .with(
            "fisherflow.catalogue_etags_sha256",
            context.fit.catalogue.etags_sha256(),
        )
        .with("fisherflow.convention", convention.to_string())
        .with("fisherflow.labels", serde_json::json!(labels.names).to_string())
        .with("fisherflow.units", serde_json::json!(labels.units).to_string())
        .with(
            "fisherflow.ucds",
            serde_json::json!(labels.names.iter().map(|name| ucd(name)).collect::<Vec<_>>()).to_string(),
        )
}

/// The metadata of every file with a row a star: whose stars these are, too.
fn metadata_of_stars(context: &Context) -> FileMetadata {
    let predicted = &context.predicted().catalogue;
    metadata(context).with("fisherflow.predict_etags_sha256", predicted.etags_sha256())
}

/// The formula of a kind of curvature.
pub(crate) fn curvature_in_words(kind: CurvatureKind) -> &'static str {
    match kind {
        CurvatureKind::Ggn => {
            "H = sum_n J_n^T Lam_n J_n: the Gauss-Newton Hessian of 1/2 sum_n r_n^T Lam_n r_n, a SUM over spectra, in normalised label units"
        }
        CurvatureKind::EmpiricalFisher => {
            "H = sum_n (J_n^T Lam_n r_n)(J_n^T Lam_n r_n)^T: the empirical Fisher of 1/2 sum_n r_n^T Lam_n r_n, r = label - f, a SUM over \
             spectra, in normalised label units"
        }
        CurvatureKind::Hessian => {
            "H = sum_n J_n^T Lam_n J_n - sum_n sum_k (Lam_n r_n)_k d2 f_k(x_n)/dtheta2: the true Hessian of 1/2 sum_n r_n^T Lam_n r_n, \
             r = label - f, a SUM over spectra, in normalised label units"
        }
    }
}

/// The UCD1+ word of a label that surveys name in a known way; empty for others (IVOA, UCD1+ controlled vocabulary 1.5).
fn ucd(label: &str) -> &'static str {
    match label.to_ascii_lowercase().as_str() {
        "teff" | "t_eff" => "phys.temperature.effective",
        "logg" | "log_g" => "phys.gravity",
        "fe_h" | "feh" => "phys.abund.Fe",
        "m_h" => "phys.abund.Z",
        "spt" | "spectral_type" => "src.spType",
        name if name.starts_with("j_h") || name.starts_with("h_k") => "phot.color",
        _ => "",
    }
}

/// The name of a block's files.
pub(crate) fn block_name(plan: &BlockPlan) -> String {
    format!("block-{:03}", plan.id)
}

/// Writes a block's file of `posterior/hessian/`.
pub(crate) fn write_hessian(
    context: &Context,
    plan: &BlockPlan,
    curvature: CurvatureByRow<'_>,
) -> Result<WrittenFile, RunError> {
    let metadata = metadata(context).with("fisherflow.n_spectra", curvature.n_spectra.to_string());
    context.faults.pass(FailPoint::BeforeHessian);
    let matrices = hessian_matrices(plan, curvature);
    let file = write_matrices(context, MatrixSet::Hessian, plan, &matrices, &metadata)?;
    context.faults.pass(FailPoint::HessianWritten);
    Ok(file)
}

/// Reads a block's file of `posterior/hessian/`, a sum over `n_spectra` spectra.
pub(crate) fn read_hessian(context: &Context, plan: &BlockPlan, n_spectra: u64) -> Result<BlockCurvature, RunError> {
    let matrices = read_matrices(context, MatrixSet::Hessian, plan)?;
    Ok(hessian_from_matrices(plan, n_spectra, matrices)?)
}

/// Writes a block's file of `stages/bases/`.
pub(crate) fn write_bases(
    context: &Context,
    plan: &BlockPlan,
    bases: &KroneckerBases,
) -> Result<WrittenFile, RunError> {
    let matrices = bases_matrices(plan, bases);
    let file = write_matrices(context, MatrixSet::Bases, plan, &matrices, &metadata(context))?;
    context.faults.pass(FailPoint::HessianWritten);
    Ok(file)
}

/// Reads a block's file of `stages/bases/`.
pub(crate) fn read_bases(context: &Context, plan: &BlockPlan) -> Result<KroneckerBases, RunError> {
    Ok(bases_from_matrices(
        plan,
        read_matrices(context, MatrixSet::Bases, plan)?,
    )?)
}

/// Writes a block's file of `posterior/inverse/`.
pub(crate) fn write_inverse(
    context: &Context,
    plan: &BlockPlan,
    matrices: &[NamedMatrix],
) -> Result<WrittenFile, RunError> {
    write_matrices(context, MatrixSet::Inverse, plan, matrices, &metadata(context))
}

/// Reads a block's posterior back.
pub(crate) fn read_inverse(
    context: &Context,
    plan: &BlockPlan,
    info: BlockInfo,
) -> Result<Box<dyn Precision>, RunError> {
    let matrices = read_matrices(context, MatrixSet::Inverse, plan)?;
    Ok(precision_from_matrices(
        plan,
        matrices,
        info,
        context.network.arithmetic().rotations(),
    )?)
}

fn write_matrices<M: RowByRow>(
    context: &Context,
    set: MatrixSet,
    plan: &BlockPlan,
    matrices: &[NamedMatrix<M>],
    metadata: &FileMetadata,
) -> Result<WrittenFile, RunError> {
    let mut writer = context.output.matrices(set, &block_name(plan), metadata)?;
    for NamedMatrix { layer, factor, matrix } in matrices {
        let form = |first: usize, lines: &mut [f64]| matrix.rows_from(first, lines);
        writer.append_formed(layer, factor.as_str(), matrix.shape(), form)?;
    }
    context.output.check_run(&context.run_id)?;
    Ok(writer.finish()?)
}

/// Reads a block's file of a set, if it is as an earlier stage left it.
fn read_matrices(context: &Context, set: MatrixSet, plan: &BlockPlan) -> Result<Vec<NamedMatrix>, RunError> {
    let name = block_name(plan);
    context.left_files.check(&context.output, &set.path(&name))?;
    named_matrices(context.output.read_matrices(set, &name)?)
}

/// Stored matrices with their names understood.
pub(crate) fn named_matrices(stored: StoredMatrices) -> Result<Vec<NamedMatrix>, RunError> {
    let named = |StoredMatrix {
                     layer,
                     factor,
                     rows,
                     cols,
                     values,
                 }| {
        let factor: Factor = factor.parse()?;
        Ok(NamedMatrix {
            layer,
            factor,
            matrix: Matrix { rows, cols, values },
        })
    };
    stored.matrices.into_iter().map(named).collect()
}

/// Where a block's marginal variances are written.
pub(crate) fn marginal_variance_path(plan: &BlockPlan) -> String {
    format!("posterior/marginal_variance/{}.parquet", block_name(plan))
}

/// Writes a block's file of `posterior/marginal_variance/`: every weight with its standard error.
pub(crate) fn write_marginal_variance(
    context: &Context,
    plan: &BlockPlan,
    variances: &[Matrix],
) -> Result<WrittenFile, RunError> {
    let mut writer = context
        .output
        .marginal_variance(&block_name(plan), &metadata(context))?;
    for ((&layer, shape), variance) in plan.layers.iter().zip(&plan.shapes).zip(variances) {
        writer.append(&MarginalRows {
            layer: &shape.name,
            rows: variance.rows,
            inputs: shape.inputs,
            cols: variance.cols,
            value: &context.network.weights_and_biases(layer)?,
            variance: &variance.values,
        })?;
    }
    context.output.check_run(&context.run_id)?;
    Ok(writer.finish()?)
}

/// Writes `posterior/blocks.parquet`: what is known of each block, and how far it may be trusted.
pub(crate) fn write_blocks(
    context: &Context,
    blocks: &[BlockInfo],
    certificate: Option<&Certificate>,
) -> Result<WrittenFile, RunError> {
    let certified = |at: usize| certificate.and_then(|certificate| certificate.blocks.get(at).cloned());
    let certified: Vec<BlockCertificate> = (0..blocks.len()).map(|at| certified(at).unwrap_or_default()).collect();
    let text = |value: fn(&BlockInfo) -> String| Column::Text(blocks.iter().map(value).collect());
    let count = |value: fn(&BlockInfo) -> u64| Column::Count(blocks.iter().map(value).collect());
    let number = |value: fn(&BlockInfo) -> f64| Column::Number(blocks.iter().map(value).collect());
    let check = |value: fn(&BlockCertificate) -> Option<f64>| {
        Column::Number(certified.iter().map(|own| value(own).unwrap_or(f64::NAN)).collect())
    };
    let columns = vec![
        ("layer", text(|info| info.layers.join("+"))),
        ("structure", text(|info| info.structure.to_string())),
        ("n_weights", count(|info| info.n_weights)),
        ("n_spectra", count(|info| info.n_spectra)),
        ("n_terms", count(|info| info.n_terms)),
        ("prior_precision", number(|info| info.prior_precision)),
        ("log_det", number(|info| info.log_det)),
        ("effective_parameters", number(|info| info.effective_parameters)),
        ("condition", number(|info| info.condition)),
        ("clipped_eigenvalues", count(|info| info.clipped_eigenvalues)),
        ("jitter", number(|info| info.jitter)),
        ("sigma_ratio", check(|own| Some(own.sigma_ratio?.median))),
        ("sigma_ratio_p05", check(|own| Some(own.sigma_ratio?.p05))),
        ("sigma_ratio_p95", check(|own| Some(own.sigma_ratio?.p95))),
        ("answer_error", check(|own| own.answer_error)),
        ("gradient_norm", check(|own| Some(own.newton?.gradient_norm))),
        ("newton_decrement", check(|own| Some(own.newton?.decrement))),
        (
            "verdict",
            Column::Text(certified.iter().map(|own| own.verdict.join("; ")).collect()),
        ),
    ];
    let path = "posterior/blocks.parquet";
    Ok(context.output.write_small_table(path, columns, &metadata(context))?)
}

/// Writes `posterior/certificate.parquet`: the exact posterior of the subset first, then the structures compared with it.
pub(crate) fn write_certificate(context: &Context, certificate: &Certificate) -> Result<WrittenFile, RunError> {
    let comparison = certificate.comparison.as_ref();
    let exact = comparison.map(|comparison| ComparedStructure {
        structure: "exact".to_owned(),
        ratio: Some(SigmaRatio {
            median: 1.0,
            p05: 1.0,
            p95: 1.0,
            spearman: Some(1.0),
        }),
        effective_parameters: comparison.effective_parameters,
    });
    let compared = comparison.into_iter().flat_map(|comparison| &comparison.structures);
    let rows: Vec<&ComparedStructure> = exact.iter().chain(compared).collect();
    let ratio = |value: fn(&SigmaRatio) -> f64| {
        let ratios = rows.iter().map(|row| row.ratio.as_ref().map_or(f64::NAN, value));
        Column::Number(ratios.collect())
    };
    let columns = vec![
        (
            "structure",
            Column::Text(rows.iter().map(|row| row.structure.clone()).collect()),
        ),
        ("ratio_median", ratio(|ratio| ratio.median)),
        ("ratio_p05", ratio(|ratio| ratio.p05)),
        ("ratio_p95", ratio(|ratio| ratio.p95)),
        ("spearman", ratio(|ratio| ratio.spearman.unwrap_or(f64::NAN))),
        (
            "effective_parameters",
            Column::Number(rows.iter().map(|row| row.effective_parameters).collect()),
        ),
    ];
    let path = "posterior/certificate.parquet";
    Ok(context.output.write_small_table(path, columns, &metadata(context))?)
}

/// Writes `posterior/evidence.parquet`; `layer` is the block whose prior it is, null where one precision serves all blocks.
pub(crate) fn write_evidence(context: &Context, evidence: &[EvidenceOf]) -> Result<WrittenFile, RunError> {
    let (mut layers, mut points): (Vec<Option<String>>, Vec<&EvidencePoint>) = (Vec::new(), Vec::new());
    for EvidenceOf { block, evidence } in evidence {
        let block = block.and_then(|block| context.blocks.get(block));
        layers.extend(std::iter::repeat_n(block.map(BlockPlan::name), evidence.curve.len()));
        points.extend(&evidence.curve);
    }
    let numbers = |value: fn(&EvidencePoint) -> f64| points.iter().copied().map(value).collect::<Vec<_>>();
    let columns = vec![
        ("layer", Column::TextOrNull(layers)),
        (
            "prior_precision",
            Column::Finite(numbers(|point| point.prior_precision)),
        ),
        ("log_evidence", Column::Number(numbers(|point| point.log_evidence))),
        (
            "effective_parameters",
            Column::Number(numbers(|point| point.effective_parameters)),
        ),
    ];
    let path = "posterior/evidence.parquet";
    Ok(context.output.write_small_table(path, columns, &metadata(context))?)
}

/// Writes `posterior/holdout.parquet`.
pub(crate) fn write_holdout(context: &Context, holdout: &HoldoutPrior) -> Result<WrittenFile, RunError> {
    let number = |value: fn(&HoldoutPoint) -> f64| Column::Number(holdout.curve.iter().map(value).collect());
    let mut columns = vec![
        ("prior_precision".to_owned(), number(|point| point.prior_precision)),
        ("log_likelihood".to_owned(), number(|point| point.log_likelihood)),
        (
            "effective_parameters".to_owned(),
            number(|point| point.effective_parameters),
        ),
    ];
    for (at, label) in context.network.labels().names.iter().enumerate() {
        // A point without this label makes the column too short, which is refused.
        let of_label = |pulls: fn(&HoldoutPoint) -> &[f64]| {
            let pulls = holdout.curve.iter().filter_map(|point| pulls(point).get(at));
            Column::Number(pulls.copied().collect())
        };
        columns.push((format!("pull_std_{label}"), of_label(|point| &point.pull_std)));
        columns.push((
            format!("pull_std_{label}_without_intrinsic"),
            of_label(|point| &point.pull_std_without),
        ));
    }
    let path = "posterior/holdout.parquet";
    Ok(context.output.write_small_table(path, columns, &metadata(context))?)
}

/// Writes `posterior/intrinsic.parquet`; `all` is the scatter of cells with too few held-out spectra.
pub(crate) fn write_intrinsic(
    context: &Context,
    cells: &[CellScatter],
    all: Option<&ScatterEstimate>,
) -> Result<WrittenFile, RunError> {
    let k = context.network.n_labels();
    let row = |cell: &CellScatter| {
        let scatter = cell.own.as_ref().or(all);
        IntrinsicRow {
            intervals: cell
                .intervals
                .iter()
                .map(|interval| (interval.low, interval.high))
                .collect(),
            n_spectra: cell.n_spectra,
            own: cell.own.is_some(),
            covariance: scatter.map_or_else(|| vec![0.0; k * k], |scatter| scatter.covariance.clone()),
            vanishing: scatter.map_or(k, |scatter| scatter.vanishing) as u64,
        }
    };
    let rows: Vec<IntrinsicRow> = cells.iter().map(row).collect();
    let bins = &context.job.calibration.intrinsic_bins;
    let labels: Vec<String> = bins.iter().map(|(label, _)| label.clone()).collect();
    Ok(context.output.write_intrinsic(&labels, &rows, &metadata(context))?)
}

/// Where the spectra of a batch are, which are consecutive ones of its shard, in the catalogue to predict.
pub(crate) fn row_keys<'b>(context: &Context, batch: &'b SpectrumBatch) -> RowKeys<'b> {
    let shard = &batch.shard;
    RowKeys {
        file: shard.object.name_below(context.predicted().catalogue.folder()),
        first_row: shard.first_row + batch.positions.first().copied().unwrap_or(0),
    }
}

/// Which file of a table a group of the catalogue to predict has.
fn part(context: &Context, group: u64) -> TablePart {
    TablePart {
        number: group,
        of: context.predicted().groups.len() as u64,
    }
}

/// Opens a group's file of `predictions/`.
pub(crate) fn predictions(context: &Context, group: u64) -> Result<PredictionWriter, RunError> {
    let rows = context.predicted().catalogue.row_schema();
    let schema = PredictionSchema::new(rows, &context.network.labels().names)?;
    Ok(context
        .output
        .predictions(part(context, group), &schema, &metadata_of_stars(context))?)
}

/// A group's file of `jacobians/`.
pub(crate) struct JacobianPart(JacobianWriter);

impl JacobianPart {
    /// Opens it.
    pub(crate) fn open(context: &Context, group: u64) -> Result<Self, RunError> {
        let rows = context.predicted().catalogue.row_schema();
        let schema = JacobianSchema::new(rows, &context.network.labels().names, context.network.n_inputs())?;
        Ok(Self(context.output.jacobians(
            part(context, group),
            &schema,
            &metadata_of_stars(context),
        )?))
    }

    /// Appends a batch.
    pub(crate) fn append(&mut self, context: &Context, all: &Differentiated) -> Result<(), RunError> {
        Ok(self.0.append(&fisherflow_store::JacobianRows {
            keys: row_keys(context, &all.batch),
            rows: &all.batch.rows,
            jacobian: &all.jacobian_f32()?,
            flags: &all.batch.flags,
        })?)
    }

    /// Ends it.
    pub(crate) fn finish(self, context: &Context) -> Result<WrittenFile, RunError> {
        context.output.check_run(&context.run_id)?;
        Ok(self.0.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use super::ucd;

    #[test]
    fn metallicity_is_not_the_abundance_of_iron() {
        assert_eq!((ucd("M_H"), ucd("Fe_H")), ("phys.abund.Z", "phys.abund.Fe"));
        assert_eq!(ucd("airmass"), "");
    }
}
