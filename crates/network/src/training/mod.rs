//! Fresh weights, and training on a catalogue's labels.

pub(crate) mod adam;
pub(crate) mod he_normal;
pub(crate) mod training_set;
