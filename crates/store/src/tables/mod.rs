//! Results as Parquet, and read back: a file a table.

pub(crate) mod any_table;
pub(crate) mod column_list;
pub(crate) mod columns;
pub(crate) mod intrinsic;
pub(crate) mod jacobians;
pub(crate) mod lists;
pub(crate) mod marginal_variance;
pub(crate) mod matrices;
pub(crate) mod npy;
pub(crate) mod output_hessian;
pub(crate) mod parquet_out;
pub(crate) mod part;
pub(crate) mod predictions;
pub(crate) mod row_key;
pub(crate) mod small_tables;
pub(crate) mod table;
pub(crate) mod tiles;
pub(crate) mod vector;
