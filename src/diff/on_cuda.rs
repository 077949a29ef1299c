//! A run on a GPU.

use super::outcome::{OnGpu, StageResult};
use super::prepare::Prepared;
use super::run::Run;
use super::{Event, comparable};
use crate::backend::{Cuda, Gpu};
use crate::error::Result;
use crate::golden::{Golden, Provenance};
use crate::plan::{Arithmetic, Plan};

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
    not_comparable: Vec<String>,
}

impl<'a> OnCuda<'a> {
    /// A run of `plan`, in this arithmetic, against a golden.
    pub(super) fn new(
        cuda: &'a Cuda,
        plan: &Plan,
        arithmetic: &Arithmetic,
        golden: &'a Golden,
    ) -> Self {
        let manifest = golden.manifest();
        let provenance = &manifest.provenance;
        let mut gpu = cuda.gpu_beside(provenance.gpu.as_ref());
        let mut not_comparable = comparable::differences(manifest, arithmetic, &gpu);
        if golden.sequences().is_some() {
            not_comparable.push("rows are padded or packed, here they are not".into());
        }
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

    /// Whether results can be held to the bit against the reference.
    pub(super) fn is_comparable(&self) -> bool {
        self.not_comparable.is_empty()
    }

    /// What a reader should know.
    pub(super) fn note(&self) -> Option<String> {
        let reasons = self.not_comparable.join("; ");
        (!self.is_comparable())
            .then(|| format!("bit-exact comparison impossible ({reasons}): using tolerances"))
    }

    /// Runs and judges the steps.
    pub(super) fn run(
        &'a self,
        prepared: &'a Prepared<'a>,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(Vec<StageResult>, OnGpu)> {
        let reference = self.provenance.gpu.as_ref();
        let session = self.cuda.session(&self.plan, &prepared.shapes, reference)?;
        let results = Run::new(prepared, self.cuda, &self.plan)?.finish(on)?;
        let on_gpu = OnGpu {
            gpu: self.gpu.clone(),
            not_comparable: self.not_comparable.clone(),
            stats: session.finish()?,
        };
        Ok((results, on_gpu))
    }
}
