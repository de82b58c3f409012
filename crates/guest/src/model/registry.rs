//! Who is there, who drives whom, and whose interrupt this is.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use lguest_abi::meeting::Irq;

use super::carrier::Progress;
use super::device::{Device, Driver, Handler};

/// Devices or drivers of one Guest: two full pages of the first, and nobody has written so many of the second.
pub const MAX_REGISTERED: usize = 32;

/// Why something was not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterError {
    /// [`MAX_REGISTERED`] are there.
    Full,
    /// One of that name is there.
    NameTaken,
}

/// Something a driver said yes to.
struct Driven {
    device: Rc<Device>,
    driver: &'static str,
    handler: Rc<dyn Handler>,
}

/// The table of buses, devices and drivers. Matching works in either order of arrival.
#[derive(Default)]
pub struct Registry {
    buses: RefCell<Vec<&'static str>>,
    devices: RefCell<Vec<Rc<Device>>>,
    drivers: RefCell<Vec<Rc<dyn Driver>>>,
    driven: RefCell<Vec<Driven>>,
}

impl Registry {
    /// An empty table.
    #[must_use]
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Registers a bus, which is also the parent of its devices.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn add_bus(&self, name: &'static str) -> Result<(), RegisterError> {
        let mut buses = self.buses.borrow_mut();
        if buses.contains(&name) {
            return Err(RegisterError::NameTaken);
        }
        push(&mut buses, name)
    }

    /// Registers a driver and offers it every device that has none. Where there is no bus, it is quietly
    /// forgotten: a driver of ours in a kernel on another machine must do no harm.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn add_driver(&self, driver: Rc<dyn Driver>) -> Result<(), RegisterError> {
        if self.buses.borrow().is_empty() {
            return Ok(());
        }
        if self.drivers.borrow().iter().any(|other| other.name() == driver.name()) {
            return Err(RegisterError::NameTaken);
        }
        push(&mut self.drivers.borrow_mut(), driver.clone())?;
        let devices = self.devices.borrow().clone();
        devices.iter().for_each(|device| self.offer(device, &driver));
        Ok(())
    }

    /// Registers a device and offers it to every driver.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn add_device(&self, device: Device) -> Result<(), RegisterError> {
        if self.devices.borrow().iter().any(|other| other.name == device.name) {
            return Err(RegisterError::NameTaken);
        }
        let device = Rc::new(device);
        push(&mut self.devices.borrow_mut(), device.clone())?;
        let drivers = self.drivers.borrow().clone();
        drivers.iter().for_each(|driver| self.offer(&device, driver));
        Ok(())
    }

    /// Lets every driven device on that line look whether the interrupt is its own. Says how many answered yes.
    pub fn interrupt(&self, irq: Irq) -> usize {
        let handlers: Vec<_> = {
            let driven = self.driven.borrow();
            let on_line = driven.iter().filter(|driven| driven.device.irq == irq);
            on_line.map(|driven| driven.handler.clone()).collect()
        };
        handlers.iter().filter(|handler| handler.interrupt()).count()
    }

    /// Every device in order of arrival, with the name of its driver.
    #[must_use]
    pub fn list(&self) -> Vec<(Rc<Device>, Option<&'static str>)> {
        let devices = self.devices.borrow();
        devices.iter().map(|device| (device.clone(), self.driver_of(&device.name))).collect()
    }

    /// The name of the driver that drives a device.
    #[must_use]
    pub fn driver_of(&self, device: &str) -> Option<&'static str> {
        self.driven.borrow().iter().find(|driven| driven.device.name == device).map(|driven| driven.driver)
    }

    /// Names of the buses.
    #[must_use]
    pub fn buses(&self) -> Vec<String> {
        self.buses.borrow().iter().map(|name| String::from(*name)).collect()
    }

    /// The original's probe wrapper: DRIVER, ask, DRIVER_OK. A driver that says no leaves DRIVER set (D9).
    fn offer(&self, device: &Rc<Device>, driver: &Rc<dyn Driver>) {
        let id = device.carrier.id();
        if !driver.ids().contains(&id) || self.driver_of(&device.name).is_some() {
            return;
        }
        device.carrier.progress(Progress::Driver);
        if let Ok(handler) = driver.probe(device) {
            let driven = Driven { device: device.clone(), driver: driver.name(), handler };
            self.driven.borrow_mut().push(driven);
            device.carrier.progress(Progress::DriverOk);
        }
    }
}

fn push<T>(list: &mut Vec<T>, item: T) -> Result<(), RegisterError> {
    if list.len() >= MAX_REGISTERED {
        return Err(RegisterError::Full);
    }
    list.push(item);
    Ok(())
}
