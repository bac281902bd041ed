//! Rows with everything that can be wrong with them.

use std::sync::Arc;

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};

use crate::*;

const SHAPE: BatchShape = BatchShape {
    n_pixels: 3,
    n_labels: 2,
    error: ErrorKind::Sigma,
    label_error: LabelErrorKind::Sigma,
    mask: MaskKind::Given,
};

const GOOD: RawRow<'static> = RawRow {
    has_id: true,
    excluded: false,
    flux: Some(&[1.0, 2.0, 3.0]),
    null_pixels: None,
    error: Some(&[0.1, 0.2, 0.5]),
    mask: Some(&[false, false, false]),
    labels: &[5000.0, 2.5],
    label_error: &[50.0, 0.1],
    holdout_key: "a",
};

fn batch(shape: BatchShape, rows: &[RawRow<'_>]) -> SpectrumBatch {
    let mut builder = SpectrumBatchBuilder::new(shape, rows.len());
    rows.iter().for_each(|row| builder.push(row));
    let shard = Shard {
        object: ObjectVersion {
            path: "/a.parquet".into(),
            size: 1,
            etag: None,
        },
        row_group: 0,
        n_rows: rows.len() as u64,
        first_row: 0,
    };
    builder.finish(shard, 0, ids(rows.len())).unwrap()
}

fn ids(n: usize) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, true)]);
    let ids = Int64Array::from_iter_values(0..n as i64);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids)]).unwrap()
}

fn one(row: RawRow<'_>) -> SpectrumBatch {
    batch(SHAPE, &[row])
}

#[test]
fn a_good_row_is_as_given() {
    let b = one(GOOD);
    assert_eq!(b.flags[0], RowFlags::NONE);
    assert_eq!(b.flux, [1.0, 2.0, 3.0]);
    assert!((b.variance[1] - 0.04).abs() < 1e-15 && b.variance[2] == 0.25);
    assert_eq!((b.n_pix_good[0], b.labels.as_slice()), (3, &[5000.0, 2.5][..]));
    let covariance = b.label_covariance.as_ref().unwrap();
    assert_eq!(covariance[..3], [2500.0, 0.0, 0.0]);
    assert_eq!(b.holdout[0], holdout_hash("a"));
    assert!(b.is_labelled(0));
}

#[test]
fn bad_rows_keep_their_place() {
    let nan = [1.0, f64::NAN, 3.0];
    let cases = [
        (RawRow { flux: None, ..GOOD }, RowFlags::FLUX_NULL),
        (RawRow { error: None, ..GOOD }, RowFlags::ERROR_NULL),
        (RawRow { mask: None, ..GOOD }, RowFlags::MASK_NULL),
        (
            RawRow {
                flux: Some(&[1.0]),
                ..GOOD
            },
            RowFlags::WRONG_LENGTH,
        ),
        (
            RawRow {
                error: Some(&[1.0; 4]),
                ..GOOD
            },
            RowFlags::WRONG_LENGTH,
        ),
        (
            RawRow {
                mask: Some(&[]),
                ..GOOD
            },
            RowFlags::WRONG_LENGTH,
        ),
        (
            RawRow {
                flux: Some(&nan),
                ..GOOD
            },
            RowFlags::FLUX_NOT_FINITE,
        ),
        (
            RawRow {
                error: Some(&[0.0, -1.0, f64::INFINITY]),
                ..GOOD
            },
            RowFlags::NO_GOOD_PIXEL,
        ),
        (RawRow { has_id: false, ..GOOD }, RowFlags::ID_NULL),
        (RawRow { excluded: true, ..GOOD }, RowFlags::EXCLUDED),
    ];
    for (row, flag) in cases {
        let b = batch(SHAPE, &[GOOD, row, GOOD]);
        assert_eq!(b.flags[1], flag, "{flag:?}");
        assert!(b.is_bad(1) && !b.is_bad(0) && !b.is_bad(2) && !b.is_labelled(1));
        assert_eq!(b.flux[3..6], [0.0; 3]);
        assert_eq!(b.variance[3..6], [0.0; 3]);
        assert_eq!(b.flux[6..], [1.0, 2.0, 3.0]);
        assert_eq!(b.n_pix_good, [3, 0, 3]);
    }
}

#[test]
fn masked_pixels_are_unknown_not_exact() {
    let rows = [
        RawRow {
            mask: Some(&[false, true, false]),
            flux: Some(&[1.0, f64::NAN, 3.0]),
            ..GOOD
        },
        RawRow {
            error: Some(&[0.1, 0.0, 0.5]),
            ..GOOD
        },
        RawRow {
            error: Some(&[0.1, 1e-200, 0.5]),
            ..GOOD
        },
        RawRow {
            null_pixels: Some(&[false, true, false]),
            flux: Some(&[1.0, 0.0, 3.0]),
            ..GOOD
        },
    ];
    let mut b = batch(SHAPE, &rows);
    let population = PixelPopulation {
        n_spectra: 9,
        mean: vec![7.0, 8.0, 9.0],
        variance: vec![0.7, 0.8, 0.9],
        borrowed: 0,
        input_limit: None,
    };
    assert_eq!(b.flux[1], 0.0, "0 until it is imputed, whatever the catalogue holds");
    b.impute(&population).unwrap();
    for row in 0..rows.len() {
        assert_eq!(b.flags[row], RowFlags::PIXELS_MASKED);
        assert_eq!(b.n_pix_good[row], 2);
        assert_eq!(b.good[3 * row..3 * row + 3], [true, false, true]);
        assert_eq!(b.flux[3 * row..3 * row + 3], [1.0, 8.0, 3.0]);
        assert_eq!(b.variance[3 * row + 1], 0.8);
        assert_eq!(b.variance[3 * row + 2], 0.25);
    }
    let other = PixelPopulation {
        mean: vec![1.0],
        ..population
    };
    assert!(b.impute(&other).is_err());
}

#[test]
fn a_spectrum_is_as_far_from_a_population_as_its_errors_say() {
    let population = PixelPopulation {
        n_spectra: 9,
        mean: vec![1.0, 2.0, 3.0, 4.0],
        variance: vec![0.04, 0.0, 0.09, 1.0],
        borrowed: 0,
        input_limit: None,
    };
    let good = [true, true, true, false];
    // (0.5^2 / (0.04 + 0.21) + 0 / 0 + 0.9^2 / (0.09 + 0.0)) / 2, and a masked pixel.
    let far = population.distance(&[1.5, 2.0, 3.9, 1e9], &[0.21, 0.0, 0.0, 1.0], &good);
    assert!((far - 5.0_f64.sqrt()).abs() < 1e-12, "{far}");
    // A pixel that is the same in all spectra, and another here; beside an error of 2.5 it is two of them off.
    let odd = |variance: f64| population.distance(&[1.0, 7.0, 3.0, 4.0], &[0.0, variance, 0.0, 0.0], &good);
    assert_eq!((odd(0.0), odd(6.25)), (f64::INFINITY, (4.0_f64 / 3.0).sqrt()));
    assert_eq!(population.distance(&[0.0; 4], &[0.0; 4], &[false; 4]), 0.0);
}

/// By hand: inputs are (flux - 1) / 0.5, so 0 to 4 in a good row; 2, 4, 6 farthest have the median 4.
#[test]
fn spectra_out_of_range_are_blanked() {
    let far = |flux: &'static [f64]| RawRow {
        flux: Some(flux),
        ..GOOD
    };
    let mut b = batch(
        SHAPE,
        &[
            far(&[1.0, 2.0, 1.0]),
            far(&[1.0, 1.0, 3.0]),
            far(&[1.0, -2.0, 2.0]),
            far(&[1.0, 1.0, 2002.0]),
            far(&[1.0, 1.0, -1e300]),
            RawRow {
                mask: Some(&[false, false, true]),
                ..far(&[1.0, 1.0, 1e30])
            },
            far(&[1.0]),
        ],
    );
    let all = InputRange {
        mean: vec![1.0; 3],
        scale: vec![0.5; 3],
        limit: f64::INFINITY,
    };
    let farthest = all.farthest(&b);
    assert_eq!(farthest[..4], [2.0, 4.0, 6.0, 4002.0]);
    assert_eq!(farthest[5..], [0.0, 0.0], "what is masked or bad counts for nothing");
    let limit = InputRange::limit_by(farthest[..3].iter().copied().chain([0.0, 0.0]).collect(), 1e3);
    assert_eq!(limit, Some(4000.0));
    assert_eq!(InputRange::limit_by(vec![0.0], 1e3), None);
    assert_eq!(InputRange::limit_by(vec![1.0, 2.0], f64::INFINITY), None);

    InputRange {
        limit: 4002.0,
        ..all.clone()
    }
    .flag(&mut b);
    assert!(!b.is_bad(3) && b.is_bad(4), "as far as the limit is within it");
    InputRange { limit: 4000.0, ..all }.flag(&mut b);
    for row in 0..b.n_rows() {
        let out = row == 3 || row == 4;
        assert_eq!(b.flags[row].contains(RowFlags::FLUX_OUT_OF_RANGE), out, "row {row}");
        assert_eq!(b.is_bad(row), out || row == 6, "row {row}");
        assert_eq!(b.n_pix_good[row] == 0, b.is_bad(row), "row {row}");
        let flux = if row == 3 { 2002.0 } else { -1e300 };
        assert_eq!(
            b.out_of_range[row],
            out.then_some(PixelFlux { pixel: 2, flux }),
            "row {row}"
        );
    }
    let chosen = b.select(&[4, 0]).unwrap().out_of_range;
    assert_eq!((chosen[0], chosen[1]), (b.out_of_range[4], None));
    assert_eq!((&b.flux[9..12], &b.good[9..12]), (&[0.0; 3][..], &[false; 3][..]));
    assert_eq!(b.variance[9..12], [0.0; 3]);
    assert_eq!(b.flux[6..9], [1.0, -2.0, 2.0]);
}

#[test]
fn inverse_variances_and_exact_fluxes() {
    let ivar = BatchShape {
        error: ErrorKind::Ivar,
        ..SHAPE
    };
    let row = RawRow {
        error: Some(&[4.0, 0.0, 100.0]),
        ..GOOD
    };
    assert_eq!(batch(ivar, &[row]).variance, [0.25, 0.0, 0.01]);
    // One over which overflows is as good as 0: a pixel of infinite variance is masked.
    let row = RawRow {
        error: Some(&[4.0, 1e-310, 100.0]),
        ..GOOD
    };
    let b = batch(ivar, &[row]);
    assert_eq!((b.flags[0], b.n_pix_good[0]), (RowFlags::PIXELS_MASKED, 2));
    assert_eq!((b.variance, b.good), (vec![0.25, 0.0, 0.01], vec![true, false, true]));
    let exact = BatchShape {
        error: ErrorKind::Exact,
        mask: MaskKind::NotGiven,
        ..SHAPE
    };
    let b = batch(
        exact,
        &[RawRow {
            error: None,
            mask: None,
            ..GOOD
        }],
    );
    assert_eq!((b.flags[0], b.variance), (RowFlags::NONE, vec![0.0; 3]));
}

#[test]
fn missing_labels_and_label_errors_are_flagged_and_nan() {
    let b = one(RawRow {
        labels: &[f64::INFINITY, 2.5],
        ..GOOD
    });
    assert_eq!(b.flags[0], RowFlags::LABEL_MISSING);
    assert!(b.labels[0].is_nan() && b.labels[1] == 2.5 && !b.is_labelled(0));
    let b = one(RawRow {
        label_error: &[50.0, -0.1],
        ..GOOD
    });
    assert_eq!(b.flags[0], RowFlags::LABEL_ERROR_MISSING);
    assert!(!b.is_bad(0) && !b.is_labelled(0), "a label of unknown error is none");
    assert!(b.label_covariance.unwrap().iter().all(|v| v.is_nan()));
    // No variance says how large it is.
    let b = one(RawRow {
        label_error: &[50.0, 1e200],
        ..GOOD
    });
    assert_eq!(b.flags[0], RowFlags::LABEL_ERROR_MISSING);
}

#[test]
fn label_covariances_are_checked() {
    let shape = BatchShape {
        label_error: LabelErrorKind::Covariance,
        ..SHAPE
    };
    let with = |label_error: &[f64]| batch(shape, &[RawRow { label_error, ..GOOD }]).flags[0];
    assert_eq!(with(&[4.0, 1.0, 1.0, 9.0]), RowFlags::NONE);
    for bad in [
        &[4.0, 1.0, -1.0, 9.0][..],
        &[4.0, 7.0, 7.0, 9.0],
        &[-4.0, 0.0, 0.0, 9.0],
        // An exact label has no covariance with another.
        &[0.0, 1.0, 1.0, 9.0],
        &[4.0, 9.0],
        // Where the product of the variances overflows, too.
        &[1e160, 1e161, 1e161, 1e160],
        &[1e160, 1e159, -1e159, 1e160],
    ] {
        assert_eq!(with(bad), RowFlags::LABEL_ERROR_MISSING, "{bad:?}");
    }

    let halves = RawRow {
        label_error: &[4.0, 1.0, 1.0 + 2e-6, 9.0],
        ..GOOD
    };
    let mean = 0.5 * (1.0 + (1.0 + 2e-6));
    let found = batch(shape, &[halves]).label_covariance.unwrap();
    assert_eq!(found, [4.0, mean, mean, 9.0]);

    // Of three labels whose pairs are all well and that cannot be together: an eigenvalue of 1 + 2 r.
    let shape = BatchShape { n_labels: 3, ..shape };
    let with = |r: f64, variance: f64| {
        let own = [[1.0, r, r], [r, 1.0, r], [r, r, 1.0]].concat();
        let own: Vec<f64> = own.iter().map(|correlation| variance * correlation).collect();
        let row = RawRow {
            labels: &[1.0, 2.0, 3.0],
            label_error: &own,
            ..GOOD
        };
        let found = batch(shape, &[row]);
        (found.flags[0], found.label_covariance.unwrap())
    };
    assert_eq!(with(-0.499, 4.0).0, RowFlags::NONE);
    assert_eq!(with(-0.7, 4.0).0, RowFlags::LABEL_ERROR_MISSING);
    // What rounding to f32 does is mended by as much.
    let (flags, mended) = with(-0.5 - 1e-7, 900.0);
    assert_eq!(flags, RowFlags::NONE);
    assert!(
        (mended[1] / (900.0 * (-0.5 - 1e-7)) - 1.0 / (1.0 + 1e-6)).abs() < 1e-12,
        "{}",
        mended[1]
    );
}

#[test]
fn rows_are_selected_whole() {
    let rows = [
        GOOD,
        RawRow { flux: None, ..GOOD },
        RawRow {
            flux: Some(&[4.0, 5.0, 6.0]),
            holdout_key: "b",
            ..GOOD
        },
    ];
    let b = batch(SHAPE, &rows).select(&[2, 0]).unwrap();
    assert_eq!(b.flux, [4.0, 5.0, 6.0, 1.0, 2.0, 3.0]);
    assert_eq!(b.holdout, [holdout_hash("b"), holdout_hash("a")]);
    assert_eq!(b.positions, [2, 0]);
    let id: &Int64Array = b.rows.column(0).as_any().downcast_ref().unwrap();
    assert_eq!(id.values().to_vec(), [2, 0]);
    assert!(b.select(&[2]).is_err());
}

#[test]
fn pixel_sums_merge_to_the_same_population() {
    let simulation = Simulation::new(3, 5);
    let spectra: Vec<Vec<f64>> = (0..40)
        .map(|i| simulation.spectrum(i).flux.iter().map(|&f| f64::from(f)).collect())
        .collect();
    let masks = [[false, false, true], [false, true, true]];
    let rows: Vec<RawRow<'_>> = spectra
        .iter()
        .enumerate()
        .map(|(i, flux)| RawRow {
            flux: Some(flux),
            mask: Some(&masks[usize::from(i % 4 == 0)]),
            ..GOOD
        })
        .collect();
    let b = batch(SHAPE, &rows);
    let mut whole = PixelSums::new(3);
    whole.accumulate(&b, 0..40).unwrap();
    let (mut first, mut second) = (PixelSums::new(3), PixelSums::new(3));
    first.accumulate(&b, 0..13).unwrap();
    second.accumulate(&b, 13..40).unwrap();
    first.merge(&second).unwrap();
    assert_eq!(first.count, [40, 30, 0]);
    let (a, b) = (whole.finish().unwrap(), first.finish().unwrap());
    for pixel in 0..3 {
        assert!((a.mean[pixel] - b.mean[pixel]).abs() < 1e-14);
        assert!((a.variance[pixel] - b.variance[pixel]).abs() < 1e-14);
    }
    // Against the definition.
    let n = 40.0;
    let mean = spectra.iter().map(|s| s[0]).sum::<f64>() / n;
    let variance = spectra.iter().map(|s| (s[0] - mean).powi(2)).sum::<f64>() / (n - 1.0);
    assert!((a.mean[0] - mean).abs() < 1e-14 && (a.variance[0] - variance).abs() < 1e-14);
    // The pixel that was never good has what its neighbour has.
    assert_eq!((a.mean[2], a.variance[2], a.borrowed), (a.mean[1], a.variance[1], 1));
    assert!(PixelSums::new(3).finish().is_err());
}

/// By hand: pixel 0 is 1 and 5; pixel 1 is good in one spectrum, which says nothing of its variance; pixel 2 is 3 and 4.
#[test]
fn a_pixel_that_was_good_once_has_no_variance_of_its_own() {
    let rows = [
        RawRow {
            flux: Some(&[1.0, 7.0, 3.0]),
            ..GOOD
        },
        RawRow {
            flux: Some(&[5.0, 9.0, 4.0]),
            mask: Some(&[false, true, false]),
            ..GOOD
        },
        RawRow { flux: None, ..GOOD },
    ];
    let mut sums = PixelSums::new(3);
    sums.accumulate(&batch(SHAPE, &rows), 0..3).unwrap();
    assert_eq!((sums.n_spectra, &sums.count[..]), (2, &[2, 1, 2][..]));
    let found = sums.finish().unwrap();
    assert_eq!((found.n_spectra, found.borrowed), (2, 1), "a bad row is none of them");
    assert_eq!((found.mean, found.variance), (vec![3.0, 3.0, 3.5], vec![8.0, 8.0, 0.5]));
}

#[test]
fn what_is_sent_survives_serialisation() {
    let mut sums = PixelSums::new(3);
    sums.accumulate(&one(GOOD), [0]).unwrap();
    let text = serde_json::to_string(&sums).unwrap();
    assert_eq!(serde_json::from_str::<PixelSums>(&text).unwrap(), sums);
}

#[test]
fn batches_are_joined_row_by_row() {
    let masked = RawRow {
        mask: Some(&[true, false, false]),
        labels: &[4000.0, 1.5],
        ..GOOD
    };
    let rows = [GOOD, masked, RawRow { flux: None, ..GOOD }, GOOD];
    let (whole, mut joined) = (batch(SHAPE, &rows), batch(SHAPE, &rows[..1]));
    joined.append(batch(SHAPE, &rows[1..3])).unwrap();
    joined.append(batch(SHAPE, &rows[3..])).unwrap();
    assert_eq!((joined.n_rows(), joined.rows.num_rows()), (4, 4));
    assert_eq!(format!("{:?}", joined.flags), format!("{:?}", whole.flags));
    assert_eq!((&joined.flux, &joined.variance), (&whole.flux, &whole.variance));
    assert_eq!((&joined.good, &joined.n_pix_good), (&whole.good, &whole.n_pix_good));
    assert_eq!(
        (&joined.labels, &joined.label_covariance),
        (&whole.labels, &whole.label_covariance)
    );
    assert_eq!(joined.holdout, whole.holdout);
    let other = BatchShape { n_labels: 1, ..SHAPE };
    let of_other = batch(
        other,
        &[RawRow {
            labels: &[1.0],
            label_error: &[1.0],
            ..GOOD
        }],
    );
    assert!(joined.append(of_other).is_err());
}
