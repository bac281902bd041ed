//! Whether the names of a bare state dict's layers say in which order they come: by numbers, or because their shapes fit in that order alone.

use std::cmp::Ordering;

use crate::files::natural_order::natural_order;

/// A layer with weights: its name, and the shape of its weight as torch has it.
pub(crate) type Named<'a> = (&'a str, &'a [usize]);

/// Another order of `layers`, which fit each other in the order of their names, with as many inputs and outputs, in which they fit too, and
/// in which names that differ by numbers alone come in their order. `None`: there is no doubt, or they do not fit.
pub(crate) fn another_order<'a>(layers: &[Named<'a>]) -> Option<Vec<&'a str>> {
    if !layers.is_sorted_by(|(_, before), (_, after)| follows(before, after)) {
        return None;
    }
    let mut order = Vec::with_capacity(layers.len());
    found(layers, &mut order).then(|| order.into_iter().map(|layer| layers[layer].0).collect())
}

/// Continues `order`; whether it became one that is not that of the names.
fn found(layers: &[Named<'_>], order: &mut Vec<usize>) -> bool {
    if order.len() == layers.len() {
        return !order.is_sorted();
    }
    for next in 0..layers.len() {
        let (name, shape) = layers[next];
        let is_free = !order.contains(&next);
        // One that must come before it is not there yet.
        let is_early = layers[..next]
            .iter()
            .enumerate()
            .any(|(before, (other, _))| !order.contains(&before) && by_number(other, name));
        let fits = match order.last() {
            Some(&last) => follows(layers[last].1, shape),
            None => shape.get(1) == layers[0].1.get(1) && shape.len() == layers[0].1.len(),
        };
        let ends = order.len() + 1 < layers.len() || shape.first() == layers[layers.len() - 1].1.first();
        if is_free && !is_early && fits && ends {
            order.push(next);
            if found(layers, order) {
                return true;
            }
            order.pop();
        }
    }
    false
}

/// Whether a layer may come behind another.
fn follows(before: &[usize], after: &[usize]) -> bool {
    match (before, after) {
        ([out, _], [_, inputs]) => out == inputs,
        ([channels, _, _], [_, of, _]) => channels == of,
        // What a convolution leaves is flattened to as many as there are positions.
        ([channels, _, _], [_, inputs]) => inputs % (*channels).max(1) == 0,
        _ => false,
    }
}

/// Whether two names, in this order, differ by numbers alone.
fn by_number(a: &str, b: &str) -> bool {
    let text = |name: &str| -> String { name.chars().filter(|c| !c.is_ascii_digit()).collect() };
    text(a) == text(b) && natural_order(a, b) == Ordering::Less
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_leave_no_doubt() {
        let square: [usize; 2] = [5, 5];
        let layers = [("net.0", &square[..]), ("net.2", &square), ("net.10", &square)];
        assert_eq!(another_order(&layers), None);
        assert_eq!(another_order(&[]), None);
    }

    #[test]
    fn shapes_that_fit_in_one_order_alone_leave_no_doubt() {
        let layers: [Named<'_>; 3] = [("conv", &[4, 1, 3]), ("dense", &[8, 40]), ("out", &[2, 8])];
        assert_eq!(another_order(&layers), None);
        let layers: [Named<'_>; 3] = [("fc1", &[8, 20]), ("fc2", &[8, 8]), ("out", &[2, 8])];
        assert_eq!(another_order(&layers), None);
    }

    #[test]
    fn another_order_that_fits_is_found() {
        let layers: [Named<'_>; 3] = [("hidden", &[20, 20]), ("input_layer", &[20, 20]), ("output", &[2, 20])];
        assert_eq!(another_order(&layers), Some(vec!["input_layer", "hidden", "output"]));
        // No two of one shape, and yet.
        let layers: [Named<'_>; 4] = [("a", &[5, 5]), ("b", &[7, 5]), ("c", &[5, 7]), ("d", &[2, 5])];
        assert_eq!(another_order(&layers), Some(vec!["b", "c", "a", "d"]));
    }
}
