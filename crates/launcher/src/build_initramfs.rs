//! `lguest initramfs`: an initial RAM disk with more in it than a shell, for `lguest run debian --initrd`.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::cli::InitramfsArguments;
use crate::debian;
use crate::ending::Ending;
use crate::guest_files::user_cache;
use crate::initramfs::Initramfs;
use crate::progress::Progress;
use crate::request::{self, Mistake};

/// Builds it and writes it whole or not at all.
pub fn build(arguments: &InitramfsArguments) -> Ending {
    match compose(arguments).and_then(|archive| write_whole(&arguments.output, &archive)) {
        Ok(()) => Ending::Status(0),
        Err(mistake) => Ending::Mistake(mistake.to_string()),
    }
}

fn compose(arguments: &InitramfsArguments) -> Result<Vec<u8>, Mistake> {
    let additions: Vec<_> =
        arguments.add.iter().map(|text| request::addition(text)).collect::<Result<_, _>>()?;
    let init = match &arguments.init {
        Some(path) => {
            let name = path.display();
            let bytes =
                fs::read(path).map_err(|cause| Mistake(format!("--init {name}: cannot be read: {cause}")))?;
            Some(bytes)
        }
        None => None,
    };
    let mut root = Initramfs::new(&debian::busybox(&user_cache()?, &Progress::new(false))?);
    for (host, guest) in &additions {
        root.add(host, guest)
            .map_err(|error| Mistake(format!("--add {}:{guest}: {error}", host.display())))?;
    }
    if let Some(init) = init {
        root.set_init(&init);
    }
    Ok(root.finish())
}

fn write_whole(output: &Path, archive: &[u8]) -> Result<(), Mistake> {
    let name = output.display();
    let fault = |cause: std::io::Error| Mistake(format!("--output {name}: cannot be written: {cause}"));
    let folder = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut draft = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(fault)?;
    draft.write_all(archive).map_err(fault)?;
    draft.persist(output).map_err(|error| fault(error.error))?;
    Ok(())
}
