//! Layers, layouts and archives for tests, good and bad, byte by byte: a library would refuse to write the bad ones.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::digest::Sum;
use super::layer::{self, LayerError};
use super::tree::Tree;

/// A layer in the making.
#[derive(Default)]
pub struct Made(Vec<u8>);

impl Made {
    pub fn entry(mut self, kind: u8, path: &[u8], target: &[u8], facts: (u64, u32), data: &[u8]) -> Made {
        let mut header = [0; 512];
        header[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
        header[100..108].copy_from_slice(format!("{:07o}\0", facts.1).as_bytes());
        header[108..116].copy_from_slice(format!("{:07o}\0", facts.0).as_bytes());
        header[116..124].copy_from_slice(format!("{:07o}\0", facts.0).as_bytes());
        header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        header[136..148].copy_from_slice(format!("{:011o}\0", 1_000_000).as_bytes());
        header[156] = kind;
        header[157..157 + target.len()].copy_from_slice(target);
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[329..337].copy_from_slice(b"0000001\0");
        header[337..345].copy_from_slice(b"0000003\0");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, data: &[u8]) -> Made {
        self.entry(b'0', path.as_bytes(), b"", (0, 0o644), data)
    }

    pub fn folder(self, path: &str) -> Made {
        self.entry(b'5', path.as_bytes(), b"", (0, 0o755), b"")
    }

    pub fn link(self, path: &str, target: &str) -> Made {
        self.entry(b'2', path.as_bytes(), target.as_bytes(), (0, 0o777), b"")
    }

    pub fn second_name(self, path: &str, first: &str) -> Made {
        self.entry(b'1', path.as_bytes(), first.as_bytes(), (0, 0o644), b"")
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A folder with a secret beside the root that layers are unpacked into.
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::write(folder.path().join("secret"), b"secret").unwrap();
        Place { folder }
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub fn outside(&self) -> &Path {
        self.folder.path()
    }

    /// Unpacks layers in order. Whatever they do, the secret is as it was and nothing lies beside it.
    pub fn unpack(&self, layers: &[&[u8]]) -> Result<Tree, LayerError> {
        let mut tree = Tree::new(&self.root()).unwrap();
        let done = layers.iter().try_for_each(|layer| layer::apply(*layer, &mut tree));
        assert_eq!(fs::read(self.folder.path().join("secret")).unwrap(), b"secret");
        assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), 2);
        done.map(|()| tree)
    }

    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.root().join(path)).ok()
    }
}

/// The configuration of an image with these unpacked layers.
pub fn configuration(layers: &[Vec<u8>], architecture: &str) -> Vec<u8> {
    let sums: Vec<String> = layers.iter().map(|layer| Sum::over(layer).to_string()).collect();
    let value = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": ["PATH=/bin", "GREETING=hello"], "Entrypoint": ["/bin/echo"], "Cmd": ["word"],
                   "WorkingDir": "/srv", "User": "7:8", "Volumes": null, "Labels": null, "OnBuild": null},
        "rootfs": {"type": "layers", "diff_ids": sums},
        "history": []
    });
    serde_json::to_vec(&value).unwrap()
}

/// An OCI layout in the making: what it holds is written to a folder or an archive.
pub struct Layout {
    pub files: Vec<(String, Vec<u8>)>,
    manifests: Vec<Value>,
}

impl Layout {
    pub fn new() -> Layout {
        let version = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
        Layout { files: vec![("oci-layout".to_owned(), version)], manifests: Vec::new() }
    }

    fn blob(&mut self, kind: &str, bytes: Vec<u8>) -> Value {
        let sum = Sum::over(&bytes);
        let value = json!({"mediaType": kind, "digest": sum.to_string(), "size": bytes.len()});
        self.files.push((format!("blobs/sha256/{}", sum.hex()), bytes));
        value
    }

    /// Adds an image of these layers, each packed by `pack`.
    pub fn image(
        mut self,
        tag: &str,
        architecture: &str,
        layers: &[Vec<u8>],
        pack: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Layout {
        let kind = "application/vnd.oci.image.layer.v1.tar";
        let packed: Vec<Value> = layers.iter().map(|layer| self.blob(kind, pack(layer))).collect();
        let config = configuration(layers, architecture);
        let config = self.blob("application/vnd.oci.image.config.v1+json", config);
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": packed});
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let mut manifest = self.blob(kind, serde_json::to_vec(&manifest).unwrap());
        manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.manifests.push(manifest);
        self
    }

    pub fn finish(mut self) -> Vec<(String, Vec<u8>)> {
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        self.files.push(("index.json".to_owned(), serde_json::to_vec(&index).unwrap()));
        self.files
    }
}

/// What `docker save` writes for one image.
pub fn saved(layers: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let config = configuration(layers, "amd64");
    let name = format!("{}.json", Sum::over(&config).hex());
    let parts: Vec<String> = (0..layers.len()).map(|index| format!("layer{index}/layer.tar")).collect();
    let manifest = json!([{"Config": name, "RepoTags": ["made:latest"], "Layers": parts}]);
    let mut files = vec![(name, config)];
    files.extend(parts.into_iter().zip(layers.iter().cloned()));
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&manifest).unwrap()));
    files
}

/// Writes files into a folder.
pub fn write(folder: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Files as an archive.
pub fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    files.iter().fold(Made::default(), |made, (name, bytes)| made.file(name, bytes)).finish()
}

/// gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::fast());
    std::io::Read::read_to_end(&mut encoder, &mut packed).unwrap();
    packed
}
