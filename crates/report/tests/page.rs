//! The page of small outputs, written by the store's own writers, against numbers taken directly.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use fisherflow_report::{ReportError, write};
use fisherflow_spectra::RowFlags;
use fisherflow_store::{
    FileMetadata, JacobianRows, JacobianSchema, Manifest, ManifestInput, Output, PredictionRows, PredictionSchema,
    RowKeys, SkippedObject, StoreOptions, Stores, TablePart, WrittenFile,
};
use serde_json::json;

/// Labels of the synthetic outputs; one of them is markup.
const LABELS: [&str; 2] = ["teff", "a<b"];
const K: usize = 2;
const PIXELS: usize = 30;

struct Synthetic {
    stores: Stores,
    output: Output,
    files: Vec<WrittenFile>,
    settings: serde_json::Value,
    folder: tempfile::TempDir,
}

fn labels() -> Vec<String> {
    LABELS.map(str::to_owned).to_vec()
}

fn part_of(number: usize, of: usize) -> TablePart {
    TablePart {
        number: number as u64,
        of: of as u64,
    }
}

fn ids(first: usize, n: usize) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Utf8, true)]));
    let ids = StringArray::from_iter_values((first..first + n).map(|i| format!("star-{i}")));
    RecordBatch::try_new(schema, vec![Arc::new(ids)]).unwrap()
}

/// The error of label 0 in row i; of label 1 it is a hundredth of that.
fn error(i: usize) -> f64 {
    50.0 + i as f64
}

/// Row i is bad.
fn bad(i: usize) -> bool {
    i % 10 == 3
}

impl Synthetic {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let uri = folder.path().join("out");
        let output = Output::open(&stores, uri.to_str().unwrap()).unwrap();
        Self {
            stores,
            output,
            files: Vec::new(),
            settings: json!({
                "network": { "weights": 4321, "labels": LABELS, "units": ["K", ""] },
                "compute": { "batch": 16 },
            }),
            folder,
        }
    }

    /// Parts of `per_part` rows; of each variance 1/2 is flux, 3/10 weights, 1/5 intrinsic.
    fn predictions(mut self, rows: usize, per_part: usize) -> Self {
        let schema = PredictionSchema::new(&ids(0, 0).schema(), &labels()).unwrap();
        for (part, first) in (0..rows.max(1)).step_by(per_part).enumerate() {
            let n = per_part.min(rows - first);
            let mut writer = self
                .output
                .predictions(
                    part_of(part, rows.max(1).div_ceil(per_part)),
                    &schema,
                    &FileMetadata::default(),
                )
                .unwrap();
            let mut covariance = Vec::new();
            for i in first..first + n {
                let e = error(i);
                covariance.extend([e * e, 0.0, 0.0, 1e-4 * e * e]);
            }
            let scaled = |share: f64| covariance.iter().map(|v| share * v).collect::<Vec<f64>>();
            let flags: Vec<RowFlags> = (first..first + n)
                .map(|i| {
                    if bad(i) {
                        RowFlags::NO_GOOD_PIXEL
                    } else {
                        RowFlags::HELD_OUT
                    }
                })
                .collect();
            let values = (first..first + n).flat_map(|i| [4000.0 + i as f64, 0.01 * i as f64]);
            writer
                .append(&PredictionRows {
                    keys: RowKeys {
                        file: "a.parquet",
                        first_row: first as u64,
                    },
                    rows: &ids(first, n),
                    labels: &values.collect::<Vec<_>>(),
                    covariance: &covariance,
                    flux: &scaled(0.5),
                    weights: &scaled(0.3),
                    intrinsic: &scaled(0.2),
                    n_pix_good: &vec![PIXELS as u32; n],
                    flags: &flags,
                })
                .unwrap();
            self.files.push(writer.finish().unwrap());
        }
        self
    }

    /// The derivative of label k at pixel p in row i is i (k + 1) where p is 7, and 0 elsewhere.
    fn jacobians(mut self, rows: usize) -> Self {
        let schema = JacobianSchema::new(&ids(0, 0).schema(), &labels(), PIXELS).unwrap();
        let mut writer = self
            .output
            .jacobians(part_of(0, 1), &schema, &FileMetadata::default())
            .unwrap();
        let mut jacobian = vec![0.0_f32; K * rows * PIXELS];
        for k in 0..K {
            for i in 0..rows {
                jacobian[(k * rows + i) * PIXELS + 7] = (i * (k + 1)) as f32;
            }
        }
        let flags: Vec<RowFlags> = (0..rows)
            .map(|i| {
                if bad(i) {
                    RowFlags::NO_GOOD_PIXEL
                } else {
                    RowFlags::NONE
                }
            })
            .collect();
        let rows = &ids(0, rows);
        writer
            .append(&JacobianRows {
                keys: RowKeys {
                    file: "a.parquet",
                    first_row: 0,
                },
                rows,
                jacobian: &jacobian,
                flags: &flags,
            })
            .unwrap();
        self.files.push(writer.finish().unwrap());
        self
    }

    fn blocks(mut self) -> Self {
        self.settings["blocks"] = json!([{
            "layers": ["layers.0", "layers.2"], "structure": "full", "n_weights": 4321, "n_spectra": 100, "prior_precision": 1.0,
            "log_det": 123.456, "effective_parameters": 250.0, "condition": 1e9, "clipped_eigenvalues": 17, "jitter": null,
        }]);
        self.settings["certificate"] = json!({
            "blocks": [{
                "sigma_ratio": { "median": 0.57, "p05": 0.42, "p95": 0.72, "spearman": 0.975 }, "answer_error": 3e-7,
                "newton": { "gradient_norm": 12.0, "decrement": 2.5 }, "verdict": ["too small", "no minimum"],
            }],
            "verdict": [],
        });
        self
    }

    fn commit(mut self, more: serde_json::Value) -> Self {
        for (key, value) in more.as_object().unwrap() {
            self.settings[key] = value.clone();
        }
        let manifest = Manifest {
            version: Manifest::VERSION,
            fisherflow: "0.1.0".into(),
            run_id: "0123456789abcdef".into(),
            created: "2026-01-02T03:04:05Z".into(),
            inputs: vec![ManifestInput {
                role: "catalogue".into(),
                uri: "s3://survey/<training>".into(),
                sha256: None,
                etags_sha256: Some("c0ffee".into()),
                objects: 3,
                bytes: 12_345_678,
                rows: 100,
                skipped: vec![SkippedObject {
                    object: "part-9.parquet".into(),
                    reason: "truncated & lost".into(),
                }],
            }],
            counts: [("fit_in_sums".to_owned(), 77), ("another_count".to_owned(), 5)].into(),
            files: self.files.clone(),
            settings: self.settings.clone(),
            notes: vec!["object left out: <part-9>".into()],
        };
        self.output.commit(&manifest).unwrap();
        self
    }

    fn page(&self) -> String {
        let written = write(&self.stores, self.output.uri()).unwrap();
        assert_eq!(written.uri, self.output.child("report.html"));
        let page = std::fs::read_to_string(self.folder.path().join("out/report.html")).unwrap();
        assert_eq!(written.bytes, page.len() as u64);
        page
    }
}

/// The cells of the table row that begins with a cell.
fn row<'a>(page: &'a str, first: &str) -> Vec<&'a str> {
    let start = page
        .find(&format!("<tr><td>{first}</td>"))
        .unwrap_or_else(|| panic!("no row {first}: {page}"));
    let line = page[start..].lines().next().unwrap();
    line.split("</td>")
        .filter_map(|cell| cell.rsplit_once("<td").map(|(_, cell)| cell.split_once('>').unwrap().1))
        .collect()
}

/// A quantile of ascending values, taken directly.
fn quantile(values: &[f64], share: f64) -> f64 {
    let place = share * (values.len() - 1) as f64;
    let below = place.floor() as usize;
    values[below] + (place - below as f64) * (values[(below + 1).min(values.len() - 1)] - values[below])
}

fn pulls() -> serde_json::Value {
    let of = |mean: f64, standard_deviation: f64, within_one_sigma: f64| json!({ "n_spectra": 400, "mean": mean, "standard_deviation": standard_deviation, "within_one_sigma": within_one_sigma });
    json!({ "pulls": [of(0.01, 1.02, 0.69), of(-0.5, 1.8, 0.45)] })
}

#[test]
fn numbers_are_those_of_the_tables() {
    let mut settings = pulls();
    settings["effective_parameters"] = json!({ "all": 250.0, "limit": 200, "of": "labels x spectra" });
    let synthetic = Synthetic::new()
        .predictions(100, 40)
        .jacobians(100)
        .blocks()
        .commit(settings);
    let page = synthetic.page();
    let errors: Vec<f64> = (0..100).filter(|&i| !bad(i)).map(error).collect();
    assert_eq!(errors.len(), 90);
    assert!(page.contains("90 of 100 spectra have predictions with error bars; 10 are without."));
    let expected: Vec<String> = [0.5, 0.16, 0.84]
        .map(|share| format!("{:.*}", 0, quantile(&errors, share)))
        .to_vec();
    let found = row(&page, "e_teff (K)");
    let digits = |text: &str| text.parse::<f64>().unwrap();
    for (found, expected) in found[1..4].iter().zip(&expected) {
        assert!((digits(found) - digits(expected)).abs() <= 0.51, "{found} {expected}");
    }
    assert_eq!(found[4..], ["50.0", "149", "90"]);
    assert_eq!(row(&page, "e_a&lt;b")[4..], ["0.500", "1.49", "90"]);
    // The second row of a label is that of the shares.
    assert!(
        page.contains("50.0 % (50.0–50.0)")
            && page.contains("30.0 % (30.0–30.0)")
            && page.contains("20.0 % (20.0–20.0)")
    );
    // Flags by name, from the files' metadata.
    assert!(page.contains("<td>NO_GOOD_PIXEL</td><td>no prediction</td><td class=\"number\">10</td>"));
    assert!(page.contains("<td>HELD_OUT</td><td></td><td class=\"number\">90</td>"));
    assert_eq!(row(&page, "in the sums over spectra (the Hessian)")[1], "77");
    assert_eq!(row(&page, "another_count")[1], "5");
    let block = row(&page, "layers.0 + layers.2");
    assert_eq!(
        block[1..],
        [
            "full",
            "4,321",
            "100",
            "1.00",
            "123.46",
            "250.0",
            "1.00e9",
            "17",
            "–",
            "0.57 (0.42 to 0.72)",
            "3e-7",
            "12.0",
            "2.50",
            "too small; no minimum"
        ]
    );
    assert!(
        page.contains("250.0 effective parameters; labels x spectra allow at most 200.")
            && page.contains("counts information that is not there")
    );
    assert!(page.contains("<strong>teff</strong>: the error bars are as large as the errors scatter"));
    assert!(page.contains("too small: the errors scatter 1.8 times as much (from 400 spectra)"));
    assert!(page.contains("first 200 of 200 rows"));
    assert!(page.contains("d teff / d flux (K per flux)") && page.contains("d a&lt;b / d flux (per flux)"));
    // Two histograms, two lines against the label, two Jacobians; every spectrum has as many good pixels.
    assert_eq!(page.matches("<figure>").count(), 6);
}

#[test]
fn the_page_says_which_spectra_pulls_and_cells_are_of() {
    let pull = |n: u64| json!([{ "n_spectra": n, "mean": 0.0, "standard_deviation": 1.07, "within_one_sigma": 0.68 }]);
    let cell = |low: Option<f64>, own: bool| {
        json!({ "intervals": [{ "label": 0, "low": low, "high": 4000.0 }], "n_spectra": 70,
            "own": own.then(|| json!({ "covariance": [9.0, 0.0, 0.0, 4.0], "n_spectra": 70 })) })
    };
    let page = |over: &str| {
        Synthetic::new()
            .commit(
                json!({ "pulls": pull(341), "pulls_over": over, "held_out_pulls": pull(262),
                "intrinsic_cells": [cell(None, true), cell(Some(3000.0), false)] }),
            )
            .page()
    };
    let predicted = page("predicted");
    assert!(
        predicted.contains("spectra of [predict]") && predicted.contains("262 held-out spectra"),
        "{predicted}"
    );
    assert!(predicted.contains("3000 to 4000") && predicted.contains("that of all cells"));
    assert!(!page("held_out").contains("spectra of [predict]"));
}

/// Whatever the path by which the catalogue to predict was reached.
#[test]
fn pulls_over_stars_of_the_fit_are_called_no_test() {
    let pulls = json!([{ "n_spectra": 341, "mean": 0.0, "standard_deviation": 1.0, "within_one_sigma": 0.68 }]);
    let page_of = |looked_up: u64, found: u64, is_test: bool| {
        let in_fit = json!({ "looked_up": looked_up, "found": found, "is_test": is_test });
        let settings = json!({ "pulls": pulls, "pulls_over": "predicted", "pulls_in_fit": in_fit });
        Synthetic::new().commit(settings).page()
    };
    let page = |found: u64| page_of(341, found, found <= 34);
    let (known, few, unseen) = (page(340), page(1), page(0));
    assert!(known.contains("of too many stars that the fit has too"), "{known}");
    assert!(known.contains("no test of the error bars") && !known.contains("as large as the errors scatter"));
    assert!(known.contains("scatter of the pulls (no test)") && !known.contains("1 is right"));
    assert!(!few.contains("no test"));
    let unknown = page_of(0, 0, false);
    assert!(unknown.contains("test the error bars is unknown") && unknown.contains("a test or not: unknown"));
    assert!(!unknown.contains("no test") && !unknown.contains("as large as the errors scatter"));
    assert!(few.contains("as large as the errors scatter") && few.contains("scatter of the pulls (1 is right)"));
    assert!(!unseen.contains("no test of the error bars") && unseen.contains("as large as the errors scatter"));
}

/// As of a run without [predict]: what is fitted brings them to 1 where it can, and where they are far from it the error bars are wrong.
#[test]
fn pulls_over_spectra_that_the_error_bars_are_fitted_to_confirm_nothing_and_may_refute() {
    let pull = |mean: f64, std: f64| json!({ "n_spectra": 400, "mean": mean, "standard_deviation": std, "within_one_sigma": 0.69 });
    let variances = [4.0, 0.0, 0.0, 1.0];
    // The second label's as where the weights' part is larger than the errors: nothing is left for C_intrinsic.
    let mut settings = json!({ "pulls": [pull(0.01, 1.02), pull(0.01, 0.69)], "pulls_over": "held_out" });
    settings["held_out_pulls"] = settings["pulls"].clone();
    settings["intrinsic_estimate"] = json!({
        "covariance": variances, "n_spectra": 400, "mean_residual": [0.0, 0.0], "residual_second_moment": variances,
        "mean_flux": variances, "mean_weights": variances, "mean_label_covariance": variances,
    });
    let page = Synthetic::new().commit(settings.clone()).page();
    assert!(
        !page.contains("(1 is right)") && !page.contains("as large as the errors scatter"),
        "{page}"
    );
    assert!(!page.contains("<strong>teff</strong>"), "{page}");
    let large = "<strong>a&lt;b</strong>: the error bars are too large: in the root mean square the errors are 0.69 times as large";
    assert!(page.contains(large), "{page}");
    let mut with = |mean: f64, std: f64| {
        settings["pulls"][1] = pull(mean, std);
        Synthetic::new().commit(settings.clone()).page()
    };
    let small = "<strong>a&lt;b</strong>: the error bars are too small: in the root mean square the errors are 1.8 times as large";
    assert!(with(0.01, 1.8).contains(small));
    // A bias takes its part of what was fitted, and leaves less to the scatter.
    assert!(!with(0.6, 0.8).contains("the error bars are too"));
    assert!(page.contains("scatter of the pulls (no test)"), "{page}");
    let said = "held-out spectra that the error bars are fitted to: no independent test";
    let at = page.find(said).unwrap_or_else(|| panic!("{page}"));
    assert!(page.contains("far from 1 the error bars are wrong") && !page.contains("by construction"));
    assert_eq!(row(&page[at..], "teff")[1..], ["0.0100", "1.02", "69.0 %", "400"]);
}

/// As of a survey: labels are known of the training spectra alone.
#[test]
fn pulls_over_held_out_spectra_stand_for_those_of_spectra_without_labels() {
    let pull = |std: f64| json!({ "n_spectra": 262, "mean": 0.0, "standard_deviation": std, "within_one_sigma": 0.68 });
    let cells = json!([{ "intervals": [{ "label": 0, "low": null, "high": 4000.0 }], "n_spectra": 70, "own": null }]);
    let held_out = [pull(1.03), pull(0.97)];
    let page = Synthetic::new()
        .commit(json!({ "pulls": null, "held_out_pulls": held_out, "intrinsic_cells": cells }))
        .page();
    let said = "held-out spectra that the error bars are fitted to: no independent test";
    let at = page.find(said).unwrap_or_else(|| panic!("{page}"));
    assert_eq!(row(&page[at..], "teff")[1..], ["0", "1.03", "68.0 %", "262"]);
    assert!(page.contains("that of all cells"));
    assert!(page.contains("scatter of the pulls (no test)") && !page.contains("(1 is right)"));
    // Near 1 they prove nothing: no sentence says what that means.
    assert!(!page.contains("compared with nothing") && !page.contains("as large as the errors scatter"));
    let nothing = Synthetic::new().commit(json!({ "intrinsic_cells": cells })).page();
    assert!(nothing.contains("compared with nothing") && nothing.contains("that of all cells"));
}

/// What can be determined depends on the kind of the curvature: the run says how many, and of what.
#[test]
fn effective_parameters_are_compared_with_the_limit_of_their_kind() {
    let page = |limit: u64, of: &str| {
        let effective = json!({ "all": 250.0, "limit": limit, "of": of, "by_layer": {} });
        let settings = json!({ "effective_parameters": effective });
        Synthetic::new().blocks().commit(settings).page()
    };
    let of_spectra = page(100, "spectra");
    assert!(
        of_spectra.contains("250.0 effective parameters; spectra allow at most 100.")
            && of_spectra.contains("counts information that is not there"),
        "{of_spectra}"
    );
    let of_weights = page(4321, "weights");
    assert!(of_weights.contains("weights allow at most 4,321."), "{of_weights}");
    assert!(!of_weights.contains("counts information that is not there"));
}

#[test]
fn a_certificate_is_told() {
    let ratio = json!({ "median": 0.57, "p05": 0.42, "p95": 0.72, "spearman": 0.975 });
    let certificate = json!({
        "blocks": [],
        "verdict": ["errors of the weights' part are 0.57 of exact"],
        "comparison": { "n_spectra": 2000, "n_stars": 200, "effective_limit": 6000.0, "effective_parameters": 5943.0,
            "structures": [{ "structure": "run", "ratio": ratio, "effective_parameters": 202_112.0 }] },
    });
    let page = Synthetic::new()
        .blocks()
        .commit(json!({ "certificate": certificate }))
        .page();
    assert!(
        page.contains("Certificate: errors of the weights&#39; part are 0.57 of exact."),
        "{page}"
    );
    assert_eq!(row(&page, "exact")[1..], ["–", "–", "5943"]);
    assert_eq!(row(&page, "this run")[1..3], ["0.57 (0.42 to 0.72)", "0.975"]);
    assert!(page.contains("both of 2,000 training spectra, for 200 stars"));
    assert!(!Synthetic::new().blocks().commit(pulls()).page().contains("Certificate"));
}

#[test]
fn the_page_is_self_contained_escaped_and_the_same_again() {
    let synthetic = Synthetic::new()
        .predictions(100, 40)
        .jacobians(100)
        .blocks()
        .commit(pulls());
    let page = synthetic.page();
    assert_eq!(page, synthetic.page());
    for outside in ["<script", "<link", "@import", "src=", "href=", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(!page.contains("a<b") && page.contains("a&lt;b") && !page.contains("NaN"));
    assert!(page.contains("s3://survey/&lt;training&gt;") && page.contains("object left out: &lt;part-9&gt;"));
    assert_eq!(row(&page, "catalogue")[1..3], ["s3://survey/&lt;training&gt;", "3"]);
    assert!(page.contains("<td>part-9.parquet</td><td>truncated &amp; lost</td>"));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    // The report is not among the files that an output is verified against.
    assert!(synthetic.output.verify().unwrap().problems.is_empty());
}

#[test]
fn how_rows_lie_in_files_does_not_matter() {
    let one = Synthetic::new().predictions(60, 60).commit(json!({})).page();
    let many = Synthetic::new().predictions(60, 7).commit(json!({})).page();
    let from = |page: &str| page[page.find("<h2>Error bars</h2>").unwrap()..].to_owned();
    assert_eq!(from(&one), from(&many));
    assert!(!one.contains("Which pixels count"), "there are no jacobians");
}

#[test]
fn outputs_without_rows_or_labels_have_a_page() {
    let empty = Synthetic::new().predictions(0, 10).commit(json!({})).page();
    assert!(empty.contains("0 of 0 spectra have") && empty.contains("No spectrum has an error bar."));
    let nothing = Synthetic::new().commit(json!({})).page();
    assert!(nothing.contains("were compared with nothing") && nothing.contains("The output has no blocks."));
    // Rows 3, 13, ... alone are bad: a part of one bad row.
    let bad = Synthetic::new()
        .predictions(4, 1)
        .commit(json!({ "pulls": null }))
        .page();
    assert!(bad.contains("3 of 4 spectra have") && bad.contains("1 is without"));
    let unlabelled = Synthetic::new()
        .predictions(20, 20)
        .commit(json!({ "network": { "weights": 1, "labels": [] } }));
    assert!(
        unlabelled
            .stores
            .exists(&unlabelled.output.child("manifest.json"))
            .unwrap()
    );
    assert!(
        matches!(write(&unlabelled.stores, unlabelled.output.uri()), Err(ReportError::Column { column, .. }) if column == "cov")
    );
}

#[test]
fn what_is_no_finished_output_is_refused() {
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let uri = folder.path().join("none").to_str().unwrap().to_owned();
    let error = write(&stores, &uri).unwrap_err();
    assert!(matches!(&error, ReportError::NotFinished { output } if *output == uri));
    assert!(error.to_string().contains("no run has finished there"), "{error}");
    assert!(!Path::new(&uri).exists(), "nothing is written");

    let odd = Synthetic::new().commit(json!({ "network": {} }));
    let error = write(&odd.stores, odd.output.uri()).unwrap_err();
    assert!(matches!(error, ReportError::Settings { .. }), "{error}");
}
