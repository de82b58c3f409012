//! scratch
fn main() {
    use lguest_launcher::*;
    let cache = debian::cache::Cache::of_the_user().unwrap();
    let p = progress::Progress::new(false);
    for k in std::env::args().skip(1) {
        let n = debian::package::PackageName::new(&k).unwrap();
        let t = std::time::Instant::now();
        match debian::kernel(&cache, &n, &p) { Ok(i) => println!("{k} {} {:?}", i.vmlinux.len(), t.elapsed()), Err(e) => println!("{e}") }
    }
    let bb = debian::busybox(&cache, &p).unwrap();
    std::fs::write("/tmp/initramfs.cpio", initramfs::Initramfs::new(&bb).finish()).unwrap();
}
