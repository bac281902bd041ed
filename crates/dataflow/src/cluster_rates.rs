//! How fast workers, stores and networks are: what the times of a plan rest on.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Rates of one worker and one process. What is given on the command line goes over what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterRates {
    /// Floating-point operations a second of one worker of one thread, in passes over spectra.
    pub worker_flops: f64,
    /// Operations a second of one worker in eigenproblems, factors and inverses (f64).
    pub inverse_flops: f64,
    /// Bytes a second of Parquet that one worker's core decodes, beside its operations.
    pub decode_bytes: f64,
    /// Bytes a second that one process reads from its store, or writes there.
    pub store_bytes: f64,
    /// Bytes a second that one process sends to others.
    pub network_bytes: f64,
    /// Seconds that a group takes beside its spectra: its objects are opened, its sums are written and taken up again.
    pub group_s: f64,
    /// Seconds from the start of the processes to the first pass, and between passes, in all.
    pub start_s: f64,
    /// Where these were measured.
    pub measured_on: Cow<'static, str>,
}

impl ClusterRates {
    /// `worker_flops`: a worker's share of the fit of 17.6 million weights, without what groups leave in the store (169 GFLOP/s of two).
    /// `inverse_flops`, `group_s`, `start_s`: fitted by `tests/cluster-model` to runs of 1, 2 and 4 processes, with a residual of 15 %.
    /// `network_bytes`: 1 MiB blocks between two processes. `store_bytes`: taken to be so, the page cache of one machine being no store. The
    /// script prints all of them for any machine.
    pub const MEASURED: Self = Self {
        worker_flops: 8.5e10,
        inverse_flops: 4.1e10,
        decode_bytes: 2.0e8,
        store_bytes: 4.0e8,
        network_bytes: 4.0e8,
        group_s: 0.005,
        start_s: 0.5,
        measured_on: Cow::Borrowed("two cores of an AMD EPYC with AVX-512, loopback; the store's rate is assumed"),
    };
}
