//! How fast workers, stores and networks are: what the times of a plan rest on.

use serde::Serialize;

/// Rates of one worker and one process. What is given on the command line goes over what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClusterRates {
    /// Floating-point operations a second of one worker of one thread, in passes over spectra.
    pub worker_flops: f64,
    /// Operations a second of one worker in eigenproblems, factors and inverses (f64).
    pub inverse_flops: f64,
    /// Bytes a second that one process reads from its store, or writes there.
    pub store_bytes: f64,
    /// Bytes a second that one process sends to others.
    pub network_bytes: f64,
    /// Seconds that a group takes beside its spectra: its objects are opened, its sums are written and taken up again.
    pub group_s: f64,
    /// Seconds from the start of the processes to the first pass, and between passes, in all.
    pub start_s: f64,
}

impl ClusterRates {
    /// As `tests/cluster-model` fitted them; it prints them anew for another machine.
    pub const MEASURED: Self = Self {
        worker_flops: 8.5e10,
        inverse_flops: 5.0e10,
        store_bytes: 4.0e8,
        network_bytes: 4.0e8,
        group_s: 0.02,
        start_s: 1.0,
    };

    /// Where [`Self::MEASURED`] was.
    pub const MEASURED_ON: &str = "two shared cores of an AMD EPYC with AVX-512, local disk, loopback";
}
