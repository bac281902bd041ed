//! Elements, products and variances of every structure's inverse against the dense inverse, of a whole block and of a layer of it.

use crate::brute_force::{inverse, relative_error, with_prior};
use crate::structures::cases::{PRIOR, cases, draw};
use crate::structures::elements::by_solving;
use crate::{PosteriorError, PosteriorPart, invert};

/// `[rows, cols]` of a dense matrix with `p` columns.
fn picked(m: &[f64], p: usize, rows: &[usize], cols: &[usize]) -> Vec<f64> {
    let row = |&row: &usize| cols.iter().map(move |col| m[row * p + col]);
    rows.iter().flat_map(row).collect()
}

#[test]
fn elements_are_those_of_the_dense_inverse() {
    for case in cases() {
        let p = case.plan.n_weights();
        let (m, _) = inverse(&with_prior(case.h.clone(), PRIOR));
        let posterior = invert(&case.plan, case.curvature, PRIOR, 1).unwrap();
        let scale = m.iter().fold(0.0_f64, |largest, v| largest.max(v.abs()));
        // Out of order, with repetition, over several outputs; and everything.
        let some = ([p - 1, 0, 8, 3, 8, p / 2], [1, p - 1, 8]);
        let all: Vec<usize> = (0..p).collect();
        for (rows, cols) in [(&some.0[..], &some.1[..]), (&all, &all), (&[], &all)] {
            let expected = picked(&m, p, rows, cols);
            for found in [
                posterior.elements(rows, cols).unwrap(),
                by_solving(&*posterior, rows, cols).unwrap(),
            ] {
                assert_eq!((found.rows, found.cols), (rows.len(), cols.len()));
                for (found, expected) in found.values.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-12 * scale, "{:?}", case.plan.structure);
                }
            }
        }
        let error = posterior.elements(&[0], &[p]).unwrap_err();
        assert!(
            matches!(error, PosteriorError::NoWeight { index, .. } if index == p),
            "{error}"
        );
    }
}

#[test]
fn a_layer_of_a_block_has_its_own_rows_and_columns_of_the_inverse() {
    for case in cases() {
        let p = case.plan.n_weights();
        let (m, _) = inverse(&with_prior(case.h.clone(), PRIOR));
        let mut start = 0;
        for shape in case.plan.shapes.clone() {
            let n = shape.n_weights();
            let posterior = invert(&case.plan, case.curvature.clone(), PRIOR, 1).unwrap();
            let part = PosteriorPart::new(posterior, start, vec![shape]).unwrap();
            assert_eq!(part.n_weights(), n);
            let own: Vec<usize> = (start..start + n).collect();
            let expected = picked(&m, p, &own, &own);
            let all: Vec<usize> = (0..n).collect();
            assert!(relative_error(&part.elements(&all, &all).unwrap().values, &expected) < 1e-11);
            let diagonal: Vec<f64> = (0..n).map(|i| expected[i * n + i]).collect();
            assert!(relative_error(&part.diagonal().unwrap(), &diagonal) < 1e-11);
            let v = draw(n, 5);
            let product: Vec<f64> = expected
                .chunks_exact(n)
                .map(|row| row.iter().zip(&v).map(|(a, b)| a * b).sum())
                .collect();
            assert!(relative_error(&part.solve(&v).unwrap(), &product) < 1e-11);
            let quadratic: f64 = v.iter().zip(&product).map(|(a, b)| a * b).sum();
            assert!((part.quadratic(&v).unwrap() / quadratic - 1.0).abs() < 1e-11);

            assert!(matches!(
                part.elements(&[n], &[0]),
                Err(PosteriorError::NoWeight { .. })
            ));
            let error = part.solve(&v[1..]).unwrap_err().to_string();
            assert!(error.contains(&format!("shape [{}], expected [{n}]", n - 1)), "{error}");
            start += n;
        }
        let posterior = invert(&case.plan, case.curvature, PRIOR, 1).unwrap();
        assert!(PosteriorPart::new(posterior, 1, case.plan.shapes).is_err());
    }
}
