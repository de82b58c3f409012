//! The board's public face, until the board itself is merged: it makes no machine and says so.

use crate::kernel_image::KernelImage;

/// What to build.
#[derive(Debug)]
pub struct MachineSpec {
    /// RAM in bytes.
    pub memory: u64,
    /// Processors.
    pub cpus: u32,
    /// The kernel.
    pub kernel: KernelImage,
    /// The initial RAM disk; may be empty.
    pub initrd: Vec<u8>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
#[error("this build has no board yet, so no machine can start")]
pub struct BoardError;

/// A machine; none can be made.
pub enum Machine {}

/// Input of a serial port; none can be made.
#[derive(Clone)]
pub enum ConsoleInput {}

/// Stops a machine; none can be made.
#[derive(Clone)]
pub enum Stopper {}

/// How a machine ended.
pub enum Outcome {
    /// It switched itself off.
    PowerOff,
    /// It reset itself.
    Reset,
    /// The stopper stopped it.
    Stopped,
    /// It died.
    Dead(String),
}

impl Machine {
    /// Says that there is no board.
    ///
    /// # Errors
    /// Always.
    pub fn new(_: MachineSpec, _: [Box<dyn std::io::Write + Send>; 2]) -> Result<Machine, BoardError> {
        Err(BoardError)
    }
    /// Input of a port.
    pub fn console_input(&self, _: usize) -> ConsoleInput {
        match *self {}
    }
    /// A way to stop it.
    pub fn stopper(&self) -> Stopper {
        match *self {}
    }
    /// Runs it.
    pub fn run(self) -> Outcome {
        match self {}
    }
}

impl ConsoleInput {
    /// Sends bytes.
    ///
    /// # Errors
    /// When the machine is gone.
    pub fn send(&self, _: &[u8]) -> Result<(), BoardError> {
        match *self {}
    }
}

impl Stopper {
    /// Stops it.
    pub fn stop(&self) {
        match *self {}
    }
}
