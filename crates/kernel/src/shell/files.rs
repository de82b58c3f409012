//! A small /sys and /proc: the bus as the original showed it, and a few facts about the machine.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use lguest_abi::descriptor::{MAX_DEVICES, kind};
use lguest_guest::transport::attributes::{self, ATTRIBUTES, AttributeError};

use crate::hardware::heap;
use crate::system::System;

/// Where devices are, and the same by way of their bus.
const DEVICES: [&str; 2] = ["sys/devices/lguest", "sys/bus/lguest/devices"];
const PROC: [&str; 4] = ["cmdline", "meminfo", "uptime", "version"];

/// What a path names.
enum Place {
    Folder(Vec<String>),
    Proc(String),
    Attribute(usize, String),
}

/// Why a path or an access is no good, in the words every shell uses.
pub type Complaint = &'static str;
const NOT_FOUND: Complaint = "No such file or directory";
const IS_FOLDER: Complaint = "Is a directory";
const DENIED: Complaint = "Permission denied";
const INVALID: Complaint = "Invalid argument";

fn indices(system: &System) -> Vec<usize> {
    let Some(bus) = &system.bus else { return Vec::new() };
    (0..MAX_DEVICES).filter(|index| bus.descriptors().get(*index).kind != kind::NONE).collect()
}

fn find(system: &System, path: &str) -> Result<Place, Complaint> {
    let path = path.trim_matches('/');
    let folder = |names: &[&str]| Ok(Place::Folder(names.iter().map(ToString::to_string).collect()));
    match path {
        "" | "." => return folder(&["proc", "sys"]),
        "proc" => return folder(&PROC),
        "sys" => return folder(&["bus", "devices"]),
        "sys/bus" | "sys/devices" => return folder(&["lguest"]),
        "sys/bus/lguest" => return folder(&["devices"]),
        _ => {}
    }
    if let Some(name) = path.strip_prefix("proc/").filter(|name| PROC.contains(name)) {
        return Ok(Place::Proc(name.into()));
    }
    let rest = DEVICES.iter().find_map(|root| path.strip_prefix(root)).ok_or(NOT_FOUND)?;
    let Some(rest) = rest.strip_prefix('/') else {
        return if rest.is_empty() {
            Ok(Place::Folder(indices(system).iter().map(ToString::to_string).collect()))
        } else {
            Err(NOT_FOUND)
        };
    };
    let (index, name) = rest.split_once('/').unwrap_or((rest, ""));
    let index = indices(system).into_iter().find(|known| known.to_string() == index).ok_or(NOT_FOUND)?;
    match ATTRIBUTES.iter().find(|(known, _)| *known == name) {
        Some(_) => Ok(Place::Attribute(index, name.into())),
        None if name.is_empty() => folder(&ATTRIBUTES.map(|(name, _)| name)),
        None => Err(NOT_FOUND),
    }
}

/// Names in a folder, or the file itself.
pub fn list(system: &System, path: &str) -> Result<Vec<String>, Complaint> {
    match find(system, path)? {
        Place::Folder(names) => Ok(names),
        Place::Proc(_) | Place::Attribute(..) => Ok([path.to_string()].into()),
    }
}

/// What a file says.
pub fn read(system: &System, path: &str) -> Result<String, Complaint> {
    match find(system, path)? {
        Place::Folder(_) => Err(IS_FOLDER),
        Place::Proc(name) => Ok(proc(system, &name)),
        Place::Attribute(index, name) => {
            let bus = system.bus.as_ref().ok_or(NOT_FOUND)?;
            attributes::show(bus.descriptors(), index, &name).map_err(complain)
        }
    }
}

/// Writes a file.
pub fn write(system: &System, path: &str, text: &str) -> Result<usize, Complaint> {
    match find(system, path)? {
        Place::Folder(_) => Err(IS_FOLDER),
        Place::Proc(_) => Err(DENIED),
        Place::Attribute(index, name) => {
            let bus = system.bus.as_ref().ok_or(NOT_FOUND)?;
            attributes::store(bus.descriptors(), index, &name, text).map_err(complain)
        }
    }
}

fn complain(error: AttributeError) -> Complaint {
    match error {
        AttributeError::NotFound => NOT_FOUND,
        AttributeError::ReadOnly => DENIED,
        AttributeError::Invalid => INVALID,
    }
}

fn proc(system: &System, name: &str) -> String {
    match name {
        "cmdline" => format!("{}\n", system.info.command_line),
        "meminfo" => format!(
            "MemTotal: {} kB\nMemFree: {} kB\n",
            system.info.low_ram_end >> 10,
            heap::untouched() >> 10
        ),
        "uptime" => format!("{}\n", uptime(system)),
        _ => format!("lguest-kernel {}\n", env!("CARGO_PKG_VERSION")),
    }
}

/// Seconds since the start, with hundredths.
pub fn uptime(system: &System) -> String {
    let hundredths = system.clock.now() / 10_000_000;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}
