//! Which blocks a run's Hessian has: a structure for each layer, with all `full` layers in one block, and all `dual` layers in one.

use std::collections::BTreeMap;

use fisherflow_network::{DenseShape, nearest_name};

use crate::{BlockOptions, BlockPlan, CurvatureError, StructureKind, WeightJacobian};

/// The blocks of a network's Hessian, in the order of their first layers, with ids 0, 1, 2, ...
///
/// `shapes` are the network's dense layers in order; `by_layer` names the structure of single layers and `default` that of the others. All
/// layers held as [`StructureKind::Full`] form one block, cross terms included, and so do those of the other structures that
/// [join layers](StructureKind::joins_layers); every other layer is a block of its own. `options` are of every block.
///
/// # Errors
/// A name in `by_layer` that no layer has (with the nearest name), no layer at all, a full block whose biases are to be split off, or
/// a dual one with too many weights that positions share.
pub fn plan_blocks(
    shapes: &[DenseShape],
    default: StructureKind,
    by_layer: &BTreeMap<String, StructureKind>,
    options: BlockOptions,
) -> Result<Vec<BlockPlan>, CurvatureError> {
    if shapes.is_empty() {
        return Err(CurvatureError::NoLayers);
    }
    check_layer_names(shapes, by_layer.keys())?;
    let mut blocks: Vec<BlockPlan> = Vec::with_capacity(shapes.len());
    for (layer, shape) in shapes.iter().enumerate() {
        let structure = by_layer.get(&shape.name).copied().unwrap_or(default);
        if structure.joins_layers() && options.split_bias {
            return Err(CurvatureError::SplitBiasOfFull {
                layer: shape.name.clone(),
                structure,
            });
        }
        if structure == StructureKind::Dual {
            WeightJacobian::check_layer(shape)?;
        }
        let joined = blocks
            .iter_mut()
            .find(|block| structure.joins_layers() && block.structure == structure);
        if let Some(block) = joined {
            block.layers.push(layer);
            block.shapes.push(shape.clone());
        } else {
            blocks.push(BlockPlan {
                id: blocks.len(),
                structure,
                layers: vec![layer],
                shapes: vec![shape.clone()],
                options,
            });
        }
    }
    Ok(blocks)
}

/// Checks that every name is that of a layer.
///
/// # Errors
/// The first name that no layer has, with the nearest one.
pub fn check_layer_names<'a>(
    shapes: &[DenseShape],
    mut names: impl Iterator<Item = &'a String>,
) -> Result<(), CurvatureError> {
    match names.find(|name| shapes.iter().all(|s| s.name != **name)) {
        None => Ok(()),
        Some(name) => Err(CurvatureError::UnknownLayer {
            name: name.clone(),
            nearest: nearest_name(name, shapes.iter().map(|shape| shape.name.as_str())),
        }),
    }
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
        let blocks = plan_blocks(&shapes(), StructureKind::Kfac, &by_layer, BlockOptions::default()).unwrap();
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
        let blocks = plan_blocks(&shapes(), StructureKind::Full, &by_layer, BlockOptions::default()).unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[0].layers, [0, 2]);
        assert_eq!(blocks[0].name(), "layers.0+layers.4");
        assert_eq!(blocks[0].n_weights(), 15 + 12);
        assert_eq!((blocks[1].id, blocks[1].layers.clone()), (1, vec![1]));
    }

    #[test]
    fn dual_layers_share_one_block_beside_the_full_ones() {
        let by_layer = BTreeMap::from([("layers.2".to_owned(), StructureKind::Full)]);
        let blocks = plan_blocks(&shapes(), StructureKind::Dual, &by_layer, BlockOptions::default()).unwrap();
        let layers: Vec<_> = blocks.iter().map(|b| (b.structure, b.layers.clone())).collect();
        assert_eq!(
            layers,
            [(StructureKind::Dual, vec![0, 2]), (StructureKind::Full, vec![1])]
        );
    }

    #[test]
    fn an_unknown_layer_is_named_with_its_nearest() {
        let by_layer = BTreeMap::from([("layer.4".to_owned(), StructureKind::Block)]);
        let error = plan_blocks(&shapes(), StructureKind::Kfac, &by_layer, BlockOptions::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the network has no dense layer `layer.4`; the nearest is `layers.4`"
        );
        assert!(matches!(
            plan_blocks(&[], StructureKind::Kfac, &BTreeMap::new(), BlockOptions::default()),
            Err(CurvatureError::NoLayers)
        ));
    }

    #[test]
    fn biases_are_split_off_every_block_but_a_full_one() {
        let options = BlockOptions {
            split_bias: true,
            ..BlockOptions::default()
        };
        let blocks = plan_blocks(&shapes(), StructureKind::Kfac, &BTreeMap::new(), options).unwrap();
        assert!(blocks.iter().all(|block| block.options == options));
        for (structure, name) in [(StructureKind::Full, "full"), (StructureKind::Dual, "dual")] {
            let by_layer = BTreeMap::from([("layers.2".to_owned(), structure)]);
            let error = plan_blocks(&shapes(), StructureKind::Kfac, &by_layer, options).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "layer layers.2 cannot be held as `{name}` with its bias split off: such a block is defined by its cross terms; choose `block`"
                )
            );
        }
    }
}
