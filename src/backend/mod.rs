//! Where steps are computed.

mod cpu;
mod device;
pub(crate) mod formula;
mod functions;
mod oracle;

pub use cpu::Cpu;
pub(crate) use cpu::{gather, split_heads};
pub use device::{Backend, Device, open};
pub use oracle::Oracle;
