//! A run on a GPU.

use super::outcome::OnGpu;
use super::run::{Parted, Run};
use super::{Event, comparable};
use crate::backend::{Cuda, Gpu};
use crate::case::Mode;
use crate::error::Result;
use crate::golden::{Manifest, Provenance};
use crate::plan::{Arithmetic, Plan, StageId};
use crate::tensor::Tensor;
use std::collections::HashMap;

/// A run on a GPU, before it begins.
pub(super) struct OnCuda<'a> {
    cuda: &'a Cuda,
    /// What made the reference.
    provenance: &'a Provenance,
    /// The plan as the GPU's kernels compute it.
    plan: Plan,
    /// The GPU, with the digests that the reference has.
    gpu: Gpu,
    /// Why results cannot be held to the bit against the reference; nothing if they can.
    pub(super) not_comparable: Vec<String>,
}

impl<'a> OnCuda<'a> {
    /// A run of `plan`, in this arithmetic, against the golden of `manifest`.
    pub(super) fn of(
        cuda: &'a Cuda,
        plan: &Plan,
        arithmetic: &Arithmetic,
        manifest: &'a Manifest,
    ) -> Self {
        let provenance = &manifest.provenance;
        let mut gpu = cuda.gpu_beside(provenance.gpu.as_ref());
        let mut not_comparable = comparable::differences(manifest, arithmetic, &gpu);
        if let Some(reference) = &provenance.gpu {
            // They are taken over.
            gpu.flags = reference.flags.clone();
        }
        let mut on_cuda = plan.on_cuda(arithmetic);
        if let Some(slopes) = &provenance.alibi_slopes {
            match on_cuda.with_alibi_slopes(slopes) {
                Some(plan) => on_cuda = plan,
                None => not_comparable.push("other ALiBi slopes than this model has".into()),
            }
        }
        Self {
            cuda,
            provenance,
            plan: on_cuda,
            gpu,
            not_comparable,
        }
    }

    /// Runs and judges the steps.
    pub(super) fn run(
        self,
        run: &mut Run<'_>,
        modes: &[Mode],
        tokens: &Tensor,
        shapes: &HashMap<StageId, Vec<usize>>,
        witness: &mut Parted<'_>,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<OnGpu> {
        let reference = self.provenance.gpu.as_ref();
        let session = self.cuda.session(&self.plan, shapes, reference)?;
        run.steps(self.cuda, &self.plan, modes, tokens, witness, on)?;
        let ran = session.finish()?;
        Ok(OnGpu {
            gpu: self.gpu,
            not_comparable: self.not_comparable,
            ran,
        })
    }
}
