//! A minimum by BFGS with backtracking (Nocedal and Wright, Numerical Optimization, 6.1), from one point or the lowest from several.

use crate::labels::small::dot;

/// The climb stops where no element of the gradient is above this.
const TOLERANCE: f64 = 1e-8;
pub(crate) const MAX_ITERATIONS: u32 = 1_000;

/// No element moves by more in one step.
const LONGEST_STEP: f64 = 0.5;

/// The minimum of those that the climbs from several points end at, and its number of iterations: the first point's, unless that of a
/// later one that came to an end is lower by more than `margin`, so that rounding does not choose between ways to one minimum.
pub(crate) fn lowest(
    starts: Vec<Vec<f64>>,
    margin: f64,
    value_and_gradient: impl Fn(&[f64]) -> (f64, Vec<f64>),
) -> (Vec<f64>, u32) {
    let mut ends = starts.into_iter().map(|start| {
        let (x, iterations) = minimise(start, &value_and_gradient);
        (value_and_gradient(&x).0, x, iterations)
    });
    let first = ends.next().unwrap_or_default();
    let (_, x, iterations) = ends.fold(first, |lowest, end| {
        if end.0 < lowest.0 - margin && end.2 < MAX_ITERATIONS {
            end
        } else {
            lowest
        }
    });
    (x, iterations)
}

/// A minimum by BFGS with backtracking, and the number of iterations.
fn minimise(mut x: Vec<f64>, value_and_gradient: impl Fn(&[f64]) -> (f64, Vec<f64>)) -> (Vec<f64>, u32) {
    let size = x.len();
    let mut inverse_hessian: Vec<f64> = (0..size * size)
        .map(|i| f64::from(u8::from(i / size == i % size)))
        .collect();
    let (mut value, mut gradient) = value_and_gradient(&x);
    for iteration in 1..=MAX_ITERATIONS {
        if gradient.iter().all(|g| g.abs() < TOLERANCE) {
            return (x, iteration);
        }
        let mut direction: Vec<f64> = inverse_hessian
            .chunks_exact(size)
            .map(|row| -dot(row, &gradient))
            .collect();
        if dot(&direction, &gradient) >= 0.0 {
            direction = gradient.iter().map(|g| -g).collect();
        }
        let slope = dot(&direction, &gradient);
        let longest = direction.iter().fold(0.0, |longest: f64, d| longest.max(d.abs()));
        let mut step = 1.0_f64.min(LONGEST_STEP / longest);
        let (next, next_value, next_gradient) = loop {
            let next: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| x + step * d).collect();
            let (next_value, next_gradient) = value_and_gradient(&next);
            if next_value <= value + 1e-4 * step * slope {
                break (next, next_value, next_gradient);
            }
            step *= 0.5;
            if step < 1e-14 {
                // Rounding: the value cannot be lowered any more.
                return (x, iteration);
            }
        };
        let moved: Vec<f64> = next.iter().zip(&x).map(|(new, old)| new - old).collect();
        let bent: Vec<f64> = next_gradient
            .iter()
            .zip(&gradient)
            .map(|(new, old)| new - old)
            .collect();
        let curvature = dot(&moved, &bent);
        if curvature > 1e-14 * dot(&bent, &bent).sqrt() * dot(&moved, &moved).sqrt() {
            update(&mut inverse_hessian, &moved, &bent, curvature);
        }
        let lowered = value - next_value;
        (x, value, gradient) = (next, next_value, next_gradient);
        if lowered <= 1e-15 * value.abs() {
            return (x, iteration);
        }
    }
    (x, MAX_ITERATIONS)
}

/// `H <- (I - s y^T / s.y) H (I - y s^T / s.y) + s s^T / s.y`.
fn update(inverse_hessian: &mut [f64], moved: &[f64], bent: &[f64], curvature: f64) {
    let size = moved.len();
    let h_bent: Vec<f64> = inverse_hessian.chunks_exact(size).map(|row| dot(row, bent)).collect();
    let weight = (1.0 + dot(bent, &h_bent) / curvature) / curvature;
    for i in 0..size {
        for j in 0..size {
            inverse_hessian[i * size + j] +=
                weight * moved[i] * moved[j] - (h_bent[i] * moved[j] + moved[i] * h_bent[j]) / curvature;
        }
    }
}
