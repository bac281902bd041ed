//! Networks from and to files, and what is said of them there.

pub(crate) mod description;
pub(crate) mod layer_order;
pub(crate) mod natural_order;
pub(crate) mod nearest_name;
pub(crate) mod safetensors;
pub(crate) mod tensor_file;
pub(crate) mod tensor_list;
