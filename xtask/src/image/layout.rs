//! An OCI image layout in one tar: blobs by their digest, the manifest, the index. Nothing in it tells of when or where it
//! was made. Source: OCI image specification 1.1, `image-layout.md`.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use oci_spec::image::{
    ANNOTATION_REF_NAME, Arch, ConfigBuilder, Descriptor, DescriptorBuilder, Digest,
    ImageConfigurationBuilder, ImageIndexBuilder, ImageManifestBuilder, MediaType, Os, PlatformBuilder,
    RootFsBuilder,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{
    NAME,
    layer::{BINARY, Layer},
    tarball::Tarball,
};

/// `containerd` gives an imported image this name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The archive's bytes and the digest of its manifest.
pub fn archive(layer: &Layer) -> Result<(Vec<u8>, String)> {
    let mut blobs = BTreeMap::new();
    let layer_blob = put(&mut blobs, MediaType::ImageLayerGzip, layer.compressed.clone())?;
    let config = ImageConfigurationBuilder::default()
        .architecture(Arch::default())
        .os(Os::Linux)
        .config(
            ConfigBuilder::default()
                .env(vec!["PATH=/usr/bin".to_owned()])
                .entrypoint(vec![format!("/{BINARY}")])
                .cmd(vec!["run".to_owned()])
                .build()?,
        )
        .rootfs(RootFsBuilder::default().typ("layers").diff_ids(vec![digest(&layer.tar)]).build()?)
        .history(Vec::new())
        .build()?;
    let config = put(&mut blobs, MediaType::ImageConfig, json(&config)?)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(vec![layer_blob])
        .annotations(HashMap::from([
            ("org.opencontainers.image.title".to_owned(), "sluice".to_owned()),
            ("org.opencontainers.image.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("org.opencontainers.image.licenses".to_owned(), "Apache-2.0".to_owned()),
        ]))
        .build()?;
    let mut manifest = put(&mut blobs, MediaType::ImageManifest, json(&manifest)?)?;
    let digest = manifest.digest().to_string();
    manifest
        .set_platform(Some(PlatformBuilder::default().architecture(Arch::default()).os(Os::Linux).build()?));
    manifest.set_annotations(Some(HashMap::from([
        (CONTAINERD_NAME.to_owned(), NAME.to_owned()),
        (ANNOTATION_REF_NAME.to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ])));
    let index = ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![manifest])
        .build()?;
    let mut tar = Tarball::new();
    tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar.file("index.json", 0o644, &json(&index)?)?;
    tar.folder("blobs")?;
    tar.folder("blobs/sha256")?;
    for (name, bytes) in blobs {
        tar.file(&format!("blobs/sha256/{name}"), 0o644, &bytes)?;
    }
    Ok((tar.bytes()?, digest))
}

fn put(blobs: &mut BTreeMap<String, Vec<u8>>, kind: MediaType, bytes: Vec<u8>) -> Result<Descriptor> {
    let digest: Digest = digest(&bytes).parse()?;
    let size = bytes.len() as u64;
    blobs.insert(digest.digest().to_owned(), bytes);
    Ok(DescriptorBuilder::default().media_type(kind).digest(digest).size(size).build()?)
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// With sorted keys: the maps of these types have no order of their own.
fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&serde_json::to_value(value)?)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Read as _;

    use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};

    use super::*;
    use crate::image::layer::layer;

    fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(tar);
        let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().display().to_string(), bytes)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn every_digest_on_the_way_from_the_index_to_the_binary_is_right() {
        let (bytes, named) = archive(&layer(b"a program", b"a licence").unwrap()).unwrap();
        let files = files(&bytes);
        let blob = |digest: &Digest| {
            let bytes = &files[&format!("blobs/sha256/{}", digest.digest())];
            assert_eq!(super::digest(bytes), digest.to_string());
            bytes.as_slice()
        };
        let index = ImageIndex::from_reader(files["index.json"].as_slice()).unwrap();
        let entry = &index.manifests()[0];
        assert_eq!(entry.digest().to_string(), named);
        assert_eq!(entry.annotations().as_ref().unwrap()[CONTAINERD_NAME], NAME);
        let manifest = ImageManifest::from_reader(blob(entry.digest())).unwrap();
        let config = ImageConfiguration::from_reader(blob(manifest.config().digest())).unwrap();
        assert_eq!(config.config().as_ref().unwrap().entrypoint().as_ref().unwrap(), &["/usr/bin/sluice"]);
        let mut root = Vec::new();
        let layer = blob(manifest.layers()[0].digest());
        flate2::read::GzDecoder::new(layer).read_to_end(&mut root).unwrap();
        assert_eq!(config.rootfs().diff_ids(), &[digest(&root)]);
        assert_eq!(tests::files(&root)[BINARY], b"a program");
    }

    #[test]
    fn the_same_binary_makes_the_same_bytes() {
        let make = |binary: &[u8]| archive(&layer(binary, b"a licence").unwrap()).unwrap();
        let (first, again, other) = (make(b"a program"), make(b"a program"), make(b"another"));
        assert_eq!(first, again);
        assert_ne!(first.1, other.1);
    }
}
