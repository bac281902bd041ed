//! fisherflow.
