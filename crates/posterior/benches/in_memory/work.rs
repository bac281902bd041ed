//! The kinds of work, and which parts of a pass each is made of.

use std::str::FromStr;

use fisherflow_curvature::StructureKind;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A product of two square matrices alone: the peak that the others are held against.
    Product,
    /// `J_x`, kept in memory for all spectra.
    Jacobian,
    /// `J_x C_flux J_x^T`, J_x not kept.
    FluxCovariance,
    /// The diagonal of the exact Gauss-Newton matrix.
    Diagonal,
    /// The Kronecker factors of all layers, exact over the outputs.
    Kfac,
    /// The corrected eigenvalues of all layers in given eigenbases.
    Correction,
    /// `J_theta P^-1 J_theta^T` of all layers under a given posterior in Kronecker eigenbases.
    Weights,
    /// The exact block of the last two layers, cross terms included.
    LastTwo,
    /// What the curvature pass of a run does: J_x kept, its covariance, the Kronecker factors.
    Fit,
    /// The same and the weights' covariance under a given posterior.
    All,
}

impl Work {
    pub(crate) const ALL: [Self; 10] = [
        Self::Product,
        Self::Jacobian,
        Self::FluxCovariance,
        Self::Diagonal,
        Self::Kfac,
        Self::Correction,
        Self::Weights,
        Self::LastTwo,
        Self::Fit,
        Self::All,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Product => "product",
            Self::Jacobian => "jacobian",
            Self::FluxCovariance => "flux_covariance",
            Self::Diagonal => "diagonal",
            Self::Kfac => "kfac",
            Self::Correction => "correction",
            Self::Weights => "weights",
            Self::LastTwo => "last_two",
            Self::Fit => "fit",
            Self::All => "all",
        }
    }

    /// Whether J_x is computed.
    pub(crate) fn has_jacobian(self) -> bool {
        self.keeps_jacobian() || self == Self::FluxCovariance
    }

    /// Whether the J_x of all spectra stays in memory.
    pub(crate) fn keeps_jacobian(self) -> bool {
        matches!(self, Self::Jacobian | Self::Fit | Self::All)
    }

    /// Whether J_x is contracted with the flux errors.
    pub(crate) fn has_flux_covariance(self) -> bool {
        matches!(self, Self::FluxCovariance | Self::Fit | Self::All)
    }

    /// Whether a posterior is asked for the weights' part.
    pub(crate) fn has_weights(self) -> bool {
        matches!(self, Self::Weights | Self::All)
    }

    /// What is summed.
    pub(crate) fn structure(self) -> Option<StructureKind> {
        match self {
            Self::Diagonal => Some(StructureKind::Diagonal),
            Self::Kfac | Self::Fit | Self::All => Some(StructureKind::Kfac),
            Self::Correction => Some(StructureKind::Ekfac),
            Self::LastTwo => Some(StructureKind::Full),
            Self::Product | Self::Jacobian | Self::FluxCovariance | Self::Weights => None,
        }
    }
}

impl FromStr for Work {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|work| work.name() == name)
            .ok_or_else(|| format!("there is no work {name}: {}", names()))
    }
}
