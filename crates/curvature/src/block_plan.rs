//! Which blocks a run's Hessian has: a structure for each layer, with all `full` layers in one block.

use std::collections::BTreeMap;

use fisherflow_network::DenseShape;

use crate::{BlockPlan, CurvatureError, StructureKind};

/// The blocks of a network's Hessian, in the order of their first layers, with ids 0, 1, 2, ...
///
/// `shapes` are the network's dense layers in order; `by_layer` names the structure of single layers and `default` that of the others. All
/// layers held as [`StructureKind::Full`] form one block, cross terms included; every other layer is a block of its own.
///
/// # Errors
/// A name in `by_layer` that no layer has (with the nearest name), a layer without bias, or no layer at all.
pub fn plan_blocks(
    shapes: &[DenseShape],
    default: StructureKind,
    by_layer: &BTreeMap<String, StructureKind>,
) -> Result<Vec<BlockPlan>, CurvatureError> {
    if shapes.is_empty() {
        return Err(CurvatureError::NoLayers);
    }
    if let Some(shape) = shapes.iter().find(|shape| !shape.bias) {
        return Err(CurvatureError::NoBias {
            layer: shape.name.clone(),
        });
    }
    if let Some(name) = by_layer.keys().find(|name| shapes.iter().all(|s| s.name != **name)) {
        return Err(CurvatureError::UnknownLayer {
            name: name.clone(),
            nearest: nearest(shapes, name),
        });
    }
    let mut blocks: Vec<BlockPlan> = Vec::with_capacity(shapes.len());
    for (layer, shape) in shapes.iter().enumerate() {
        let structure = by_layer.get(&shape.name).copied().unwrap_or(default);
        let joined = match structure {
            StructureKind::Full => blocks.iter_mut().find(|b| b.structure == StructureKind::Full),
            StructureKind::Block | StructureKind::Kfac | StructureKind::Diagonal => None,
        };
        if let Some(block) = joined {
            block.layers.push(layer);
            block.shapes.push(shape.clone());
        } else {
            blocks.push(BlockPlan {
                id: blocks.len(),
                structure,
                layers: vec![layer],
                shapes: vec![shape.clone()],
            });
        }
    }
    Ok(blocks)
}

/// The layer whose name takes the fewest edits from `name`; the first of equals.
fn nearest(shapes: &[DenseShape], name: &str) -> String {
    shapes
        .iter()
        .min_by_key(|shape| strsim::damerau_levenshtein(&shape.name, name))
        .map_or_else(String::new, |shape| shape.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes() -> Vec<DenseShape> {
        [("layers.0", 4, 3), ("layers.2", 3, 5), ("layers.4", 5, 2)]
            .map(|(name, inputs, outputs)| DenseShape {
                name: name.to_owned(),
                inputs,
                outputs,
                bias: true,
                shared: 1,
            })
            .to_vec()
    }

    #[test]
    fn every_layer_is_a_block_unless_full() {
        let by_layer = BTreeMap::from([("layers.2".to_owned(), StructureKind::Block)]);
        let blocks = plan_blocks(&shapes(), StructureKind::Kfac, &by_layer).unwrap();
        assert_eq!(blocks.iter().map(|b| b.id).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(
            blocks.iter().map(|b| b.layers.clone()).collect::<Vec<_>>(),
            [[0], [1], [2]]
        );
        assert_eq!(blocks[1].structure, StructureKind::Block);
        assert_eq!(blocks[1].n_weights(), 20);
    }

    #[test]
    fn full_layers_share_one_block_even_when_apart() {
        let by_layer = BTreeMap::from([("layers.2".to_owned(), StructureKind::Diagonal)]);
        let blocks = plan_blocks(&shapes(), StructureKind::Full, &by_layer).unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[0].layers, [0, 2]);
        assert_eq!(blocks[0].name(), "layers.0+layers.4");
        assert_eq!(blocks[0].n_weights(), 15 + 12);
        assert_eq!((blocks[1].id, blocks[1].layers.clone()), (1, vec![1]));
    }

    #[test]
    fn an_unknown_layer_is_named_with_its_nearest() {
        let by_layer = BTreeMap::from([("layer.4".to_owned(), StructureKind::Block)]);
        let error = plan_blocks(&shapes(), StructureKind::Kfac, &by_layer).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the network has no dense layer `layer.4`; the nearest is `layers.4`"
        );
        let mut without_bias = shapes();
        without_bias[1].bias = false;
        let error = plan_blocks(&without_bias, StructureKind::Kfac, &BTreeMap::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "layer `layers.2` has no bias, and the curvature of layers without bias is not supported yet"
        );
        assert!(matches!(
            plan_blocks(&[], StructureKind::Kfac, &BTreeMap::new()),
            Err(CurvatureError::NoLayers)
        ));
    }
}
