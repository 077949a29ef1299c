//! Where steps are computed.

mod cpu;
mod device;

pub use cpu::Cpu;
pub use device::{Backend, Device, open};
