//! What spectra are differentiated and summed on: the CPU, with kernels of this project, or a GPU, with candle's.

use std::fmt;
use std::panic::catch_unwind;
use std::sync::OnceLock;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

/// What spectra are differentiated and summed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Processor {
    /// The CPU.
    #[default]
    Cpu,
    /// The first NVIDIA GPU that the process sees (`CUDA_VISIBLE_DEVICES` says which), shared by its workers.
    Cuda,
}

impl Processor {
    /// The device, the same for all of a process.
    ///
    /// # Errors
    /// There is no GPU, or this program was built without the feature `cuda`.
    pub fn device(self) -> Result<Device, NetworkError> {
        static GPU: OnceLock<Device> = OnceLock::new();
        match (self, GPU.get()) {
            (Self::Cpu, _) => Ok(Device::Cpu),
            (Self::Cuda, Some(open)) => Ok(open.clone()),
            (Self::Cuda, None) => {
                // One stream for all workers: each on its own could read what another has asked for and the GPU not yet made. A driver that is not
                // there makes the binding panic.
                let opened = catch_unwind(|| Device::new_cuda_with_stream(0)).unwrap_or_else(|_| {
                    Err(candle_core::Error::Msg(
                        "no driver of an NVIDIA GPU could be loaded".to_owned(),
                    ))
                });
                let opened = opened.map_err(NetworkError::NoGpu)?;
                Ok(GPU.get_or_init(|| opened).clone())
            }
        }
    }
}

impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Tensor};

    use super::*;
    use crate::layers::chain::Weights;
    use crate::{Activation, Arithmetic, FlattenOrder, InputJacobian, Labels, LayerSpec, Network, Padding, Precision};

    /// A network that was moved, here to where it was, and what it says with weights packed for the CPU's kernels.
    #[test]
    fn a_network_that_was_moved_says_the_same() {
        let (widths, batch) = ([9, 6, 3], 5);
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        let labels = Labels::unscaled(names, vec![String::new(); 3]);
        let scale: Vec<f64> = (1..=9).map(f64::from).collect();
        let arithmetic = Arithmetic {
            precision: Precision::F64,
            threads: 1,
        };
        let network = Network::he_normal(&widths, Activation::Relu, labels, &[0.3], &scale, 1, arithmetic).unwrap();
        let network = network.with_packed_weights();
        let flux: Vec<f64> = (0..batch * 9).map(|i| (i as f64).sin()).collect();
        let said = |network: &Network| {
            let forward = network.forward(&flux).unwrap();
            let backward = network.backward(&forward, InputJacobian::Wanted).unwrap();
            let mut said = vec![forward.labels(network).unwrap()];
            let captures = backward.captures.into_iter().flat_map(|of| [of.input, of.output_grad]);
            let tensors = captures.chain(backward.input_jacobian);
            said.extend(tensors.map(|x| x.flatten_all().unwrap().to_vec1::<f64>().unwrap()));
            said
        };
        assert_eq!(said(&network.on(&Device::Cpu).unwrap()), said(&network));
    }

    #[test]
    fn a_convolution_stays_on_the_cpu() {
        let specs = [
            LayerSpec::Input { pixels: 5 },
            LayerSpec::Conv1d {
                stride: 1,
                padding: Padding::Valid,
            },
            LayerSpec::Flatten(FlattenOrder::ChannelsFirst),
        ];
        let weights = vec![Weights {
            name: "layers.0".to_owned(),
            weight: Tensor::ones((2, 1, 3), DType::F32, &Device::Cpu).unwrap(),
            bias: None,
        }];
        let labels = |n: usize| {
            let names = (0..n).map(|k| k.to_string()).collect();
            Ok(Labels::unscaled(names, vec![String::new(); n]))
        };
        let network = Network::assemble(&specs, weights, labels, &[0.0], &[1.0], Arithmetic::default()).unwrap();
        let error = network.on(&Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("`conv1d") && error.contains("CPU only"), "{error}");
    }

    /// What is said where this program has no GPU to use; with one it is opened, once.
    #[test]
    fn a_gpu_that_is_not_there_is_told_with_the_remedy() {
        match Processor::Cuda.device() {
            Ok(device) => assert!(device.same_device(&Processor::Cuda.device().unwrap())),
            Err(error) => assert!(error.to_string().contains("--features cuda"), "{error}"),
        }
        assert!(Processor::Cpu.device().unwrap().is_cpu());
    }
}
