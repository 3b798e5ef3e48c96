//! The image store of one data folder: names, documents, blobs and unpacked layers together.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use rustix::fs::FlockOperation;
use wharf_base::{Algorithm, Clock, Digest, Hasher, SystemClock};

use crate::{
    blob::{BlobWriter, Blobs},
    compress::{Compression, Decoder},
    error::{Error, IoContext, Result},
    fsx::{self, Temp},
    layer::{UnpackOptions, pack_directory, unpack_into},
    lease::Leases,
    manifest::{
        Descriptor, ImageConfig, Index, MAX_DOCUMENT, Manifest, Platform,
        media_type::{self, is_index},
    },
    partial::Follower,
    reference::Reference,
    refs::{RefEntry, Refs},
};

/// The image store of one data folder. Cheap to clone; several processes may use one folder.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) data_dir: Arc<PathBuf>,
    pub(crate) blobs: Blobs,
    pub(crate) refs: Refs,
    pub(crate) leases: Leases,
    pub(crate) layers: PathBuf,
    boot_id: Arc<str>,
    /// Layers being unpacked by this process, so that two images sharing one unpack it once.
    unpacking: Arc<Mutex<BTreeSet<Digest>>>,
    unpacked: Arc<std::sync::Condvar>,
}

/// An image ready to run.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// The name it was found by; `None` when it was found by its id.
    pub reference: Option<Reference>,
    /// The manifest's digest, which [`Store::lease`] takes.
    pub manifest: Digest,
    /// The configuration's digest, which tools show as the image's id.
    pub id: Digest,
    /// The configuration.
    pub config: ImageConfig,
    /// Descriptors of the layers, the base first, as the manifest has them.
    pub layers: Vec<Layer>,
    /// Folders for overlayfs, the top first.
    pub lower_dirs: Vec<PathBuf>,
}

/// One layer: its blob and the digest of its uncompressed content.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// The blob.
    pub descriptor: Descriptor,
    /// The digest of the tar stream in it.
    pub diff_id: Digest,
}

/// A folder for the changes of one build step; gone when dropped without [`Store::commit_scratch`].
#[derive(Debug)]
pub struct Scratch {
    temp: Temp,
}

impl Scratch {
    /// The overlay's upper directory, or the place for copied files.
    pub fn upper(&self) -> PathBuf {
        self.temp.path.join("fs")
    }

    /// The overlay's work directory.
    pub fn work(&self) -> PathBuf {
        self.temp.path.join("work")
    }
}

impl Store {
    /// Opens the store in `data_dir`, making it when it is new, and sweeps what killed processes left.
    pub fn open(data_dir: impl AsRef<Path>) -> Result<Self> {
        let data_dir = data_dir.as_ref().to_owned();
        fsx::create_private_dir(&data_dir)?;
        let layers = data_dir.join("layers");
        fsx::create_private_dir(&layers.join("tmp"))?;
        fsx::sweep_temps(&layers.join("tmp"))?;
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Self {
            blobs: Blobs::open(&data_dir)?,
            refs: Refs::open(&data_dir)?,
            leases: Leases::open(&data_dir)?,
            layers,
            boot_id: boot_id.trim().into(),
            unpacking: Arc::default(),
            unpacked: Arc::default(),
            data_dir: Arc::new(data_dir),
        })
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// All names of images on this machine, sorted.
    pub fn references(&self) -> Result<Vec<RefEntry>> {
        self.refs.list()
    }

    /// All names this folder's registry has, sorted: what was pushed, and of the images of this machine those it has no name of.
    pub fn published(&self) -> Result<Vec<RefEntry>> {
        self.refs.list_of_registry()
    }

    /// All names whatever knows them; some twice.
    pub(crate) fn all_references(&self) -> Result<Vec<RefEntry>> {
        self.refs.all()
    }

    /// What a name points at: a manifest or an index.
    pub fn lookup(&self, reference: &Reference) -> Result<Descriptor> {
        let local = self.local_name(reference)?;
        match self.refs.get(&local) {
            // Named before this folder's registry had that address.
            Err(Error::NoImage { .. }) if local != *reference => self.refs.get(reference),
            other => other,
        }
    }

    /// What a name points at in this folder's registry.
    pub fn lookup_published(&self, reference: &Reference) -> Result<Descriptor> {
        self.refs.get_of_registry(&self.local_name(reference)?)
    }

    /// Has an image of this folder's registry be one of this machine too, as a pull does. False when it has none of this name.
    pub fn adopt(&self, reference: &Reference) -> Result<bool> {
        match self.lookup_published(reference) {
            Ok(target) => self.tag(std::slice::from_ref(reference), &target).map(|()| true),
            Err(Error::NoImage { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Points every one of `names` at `target`, all at once.
    pub fn tag(&self, names: &[Reference], target: &Descriptor) -> Result<()> {
        if self.blobs.size(&target.digest).is_none() {
            return Err(Error::NoBlob(target.digest));
        }
        let names = names.iter().map(|name| self.local_name(name)).collect::<Result<Vec<_>>>()?;
        self.refs.set(&names, target, &SystemClock.now().to_string())
    }

    /// Names something in this folder's registry: what a tag pointed at before stays reachable in its repository by digest. What a tag
    /// names is an image of this machine too.
    pub fn publish(&self, name: &Reference, target: &Descriptor) -> Result<()> {
        if self.blobs.size(&target.digest).is_none() {
            return Err(Error::NoBlob(target.digest));
        }
        self.refs.publish(&self.local_name(name)?, target, &SystemClock.now().to_string())
    }

    /// Removes a tag from this folder's registry and from this machine: what it pointed at stays reachable by digest.
    pub fn unpublish(&self, name: &Reference) -> Result<Option<Digest>> {
        self.refs.unpublish(&self.local_name(name)?, &SystemClock.now().to_string())
    }

    /// Removes a name of this machine; what it pointed at, if it was there. The registry keeps what was pushed. The content goes with
    /// garbage collection.
    pub fn untag(&self, name: &Reference) -> Result<Option<Digest>> {
        self.refs.remove(&self.local_name(name)?)
    }

    /// Removes a name without a tag that [`Store::published`] gives, from the registry alone.
    pub fn forget(&self, name: &Reference) -> Result<Option<Digest>> {
        self.refs.forget(name)
    }

    /// Removes every name in `repository` (domain and path) that points at `digest`, of the registry and of this machine; how many.
    pub fn unpublish_digest(&self, repository: &str, digest: &Digest) -> Result<usize> {
        self.refs.remove_digest(repository, digest)
    }

    /// The raw bytes of a manifest or index.
    pub fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.blobs.read(digest, MAX_DOCUMENT)
    }

    /// The manifest a descriptor leads to on this machine, through an index where there is one.
    pub fn manifest(&self, target: &Descriptor) -> Result<(Digest, Manifest)> {
        self.manifest_for(target, &Platform::host())
    }

    /// As [`Store::manifest`], on a machine of `platform`.
    pub fn manifest_for(&self, target: &Descriptor, platform: &Platform) -> Result<(Digest, Manifest)> {
        let mut digest = target.digest;
        let mut bytes = self.document(&digest)?;
        if is_index(&target.media_type) {
            digest = Index::parse(&bytes)?.choose(&digest, platform)?.digest;
            bytes = self.document(&digest)?;
        }
        Ok((digest, Manifest::parse(&bytes)?))
    }

    /// Finds an image by name, by id or by the first digits of its id.
    pub fn find(&self, text: &str) -> Result<(Option<Reference>, Descriptor)> {
        let parsed: Result<Reference> = text.parse();
        if let Ok(reference) = &parsed {
            match self.lookup(reference) {
                Ok(target) => return Ok((Some(reference.clone()), target)),
                Err(Error::NoImage { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_id = (4..=64).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if is_id {
            let mut found: Vec<(Digest, Descriptor)> = Vec::new();
            for entry in self.references()? {
                let Ok((digest, manifest)) = self.manifest(&entry.target) else { continue };
                let id = manifest.config.digest;
                if [digest, id].iter().any(|d| d.hex().starts_with(digits)) {
                    found.push((id, entry.target));
                }
            }
            // One image may be under several manifests: compressed otherwise, from another registry.
            if found.iter().any(|(id, _)| found.first().is_some_and(|(first, _)| first != id)) {
                return Err(Error::document(format!("image id '{text}'"), "is the start of several ids"));
            }
            if let Some((_, target)) = found.pop() {
                return Ok((None, target));
            }
        }
        self.lookup(&parsed?).map(|target| (None, target))
    }

    /// Everything needed to run an image; its layers are unpacked if they are not yet.
    pub fn resolve(&self, text: &str) -> Result<ResolvedImage> {
        let (reference, target) = self.find(text)?;
        let image = self.resolve_descriptor(&target)?;
        Ok(ResolvedImage { reference, ..image })
    }

    /// As [`Store::resolve`], for a manifest or index in the store.
    pub fn resolve_descriptor(&self, target: &Descriptor) -> Result<ResolvedImage> {
        self.resolve_for(target, &Platform::host())
    }

    /// As [`Store::resolve_descriptor`], on a machine of `platform`.
    pub fn resolve_for(&self, target: &Descriptor, platform: &Platform) -> Result<ResolvedImage> {
        let (digest, manifest) = self.manifest_for(target, platform)?;
        let config = ImageConfig::parse(&self.document(&manifest.config.digest)?)?;
        let layers = pair_layers(&digest, manifest.layers, &config)?;
        let mut lower_dirs = self.layer_dirs(&layers)?;
        lower_dirs.reverse();
        Ok(ResolvedImage {
            reference: None,
            manifest: digest,
            id: manifest.config.digest,
            config,
            layers,
            lower_dirs,
        })
    }

    /// Stores an image of these layers and this configuration, whose `diff_ids` are set from the layers.
    pub fn put_image(&self, mut config: ImageConfig, layers: &[Layer]) -> Result<Descriptor> {
        config.rootfs.diff_ids = layers.iter().map(|l| l.diff_id).collect();
        let encode = |e| Error::document("image document", format!("cannot be written: {e}"));
        let bytes = serde_json::to_vec(&config).map_err(encode)?;
        let id = self.blobs.put(&bytes)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            config: Descriptor::new(media_type::OCI_CONFIG, id, bytes.len() as u64),
            layers: layers.iter().map(|l| l.descriptor.clone()).collect(),
            other: serde_json::Map::new(),
        };
        let bytes = serde_json::to_vec(&manifest).map_err(encode)?;
        let digest = self.blobs.put(&bytes)?;
        Ok(Descriptor::new(media_type::OCI_MANIFEST, digest, bytes.len() as u64))
    }

    /// The folders of layers in the order given, unpacked in parallel where they are not yet.
    pub fn layer_dirs(&self, layers: &[Layer]) -> Result<Vec<PathBuf>> {
        let missing: Vec<_> = layers.iter().filter(|l| !self.is_unpacked(&l.diff_id)).collect();
        let workers = std::thread::available_parallelism().map_or(2, usize::from).min(missing.len());
        let next = std::sync::atomic::AtomicUsize::new(0);
        let unpack_some = || -> Result<()> {
            while let Some(layer) = missing.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                self.unpack(layer)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (1..workers).map(|_| scope.spawn(unpack_some)).collect();
            let mut result = unpack_some();
            for thread in threads {
                let other =
                    thread.join().unwrap_or_else(|_| Err(Error::Layer("could not be unpacked".into())));
                result = result.and(other);
            }
            result
        })?;
        Ok(layers.iter().map(|l| self.fs_dir(&l.diff_id)).collect())
    }

    /// The folder of one layer, unpacked if it is not yet.
    pub fn layer_dir(&self, layer: &Layer) -> Result<PathBuf> {
        self.unpack(layer).map(|()| self.fs_dir(&layer.diff_id))
    }

    fn fs_dir(&self, diff_id: &Digest) -> PathBuf {
        self.layers.join(diff_id.hex()).join("fs")
    }

    /// Whether a layer lies unpacked and whole. One that was never flushed to disk counts only until
    /// the machine restarts: after that its files may be short, and it is unpacked again.
    pub fn is_unpacked(&self, diff_id: &Digest) -> bool {
        let mark = self.layers.join(diff_id.hex()).join("boot");
        fs::read_to_string(mark).is_ok_and(|boot| boot == SETTLED || boot == *self.boot_id)
    }

    fn unpack(&self, layer: &Layer) -> Result<()> {
        self.unpack_from(layer, || self.blobs.open_blob(&layer.descriptor.digest))
    }

    /// Unpacks a layer while its blob arrives, unless it is unpacked already. Content that is not the layer's is
    /// never given its name.
    ///
    /// # Errors
    /// When the blob does not come to its end; it can be unpacked later.
    pub fn unpack_arriving(&self, layer: &Layer, blob: Follower) -> Result<()> {
        self.unpack_from(layer, || Ok(blob))
    }

    fn unpack_from<R: Read + Send>(&self, layer: &Layer, open: impl FnOnce() -> Result<R>) -> Result<()> {
        let _turn = self.take_turn(layer.diff_id);
        if self.is_unpacked(&layer.diff_id) {
            return Ok(());
        }
        let scratch = self.scratch()?;
        let blob = open()?;
        let actual = unpack_blob(blob, &scratch.upper(), layer.diff_id.algorithm())?;
        if actual != layer.diff_id {
            let what = format!("the content of layer {}", layer.descriptor.digest);
            return Err(Error::mismatch(what, layer.diff_id, actual));
        }
        self.place(scratch, &layer.diff_id)
    }

    fn take_turn(&self, diff_id: Digest) -> Turn<'_> {
        let mut busy = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        while !busy.insert(diff_id) {
            busy = self.unpacked.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { store: self, diff_id }
    }

    /// Gives an unpacked layer its name; when another process was faster, its work stands.
    fn place(&self, scratch: Scratch, diff_id: &Digest) -> Result<()> {
        fsx::remove_any(&scratch.work()).at("remove", scratch.work())?;
        fs::write(scratch.temp.path.join("boot"), &*self.boot_id).at("write", &scratch.temp.path)?;
        let target = self.layers.join(diff_id.hex());
        let _alone = fsx::lock(&self.layers.join("lock"), FlockOperation::LockExclusive)?;
        if !self.is_unpacked(diff_id) {
            // What may lie there was not flushed before the machine stopped.
            fsx::remove_any(&target).at("remove unfinished layer", &target)?;
        }
        scratch.temp.rename_into(&target).map(|_| ())
    }

    /// A folder for changes, on the file system of the layers.
    pub fn scratch(&self) -> Result<Scratch> {
        let scratch = Scratch { temp: Temp::dir(&self.layers.join("tmp"))? };
        for dir in [scratch.upper(), scratch.work()] {
            fs::create_dir(&dir).at("create folder", &dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).at("set mode of", &dir)?;
        }
        Ok(scratch)
    }

    /// Makes a layer of what a scratch folder holds; `None` when it holds nothing. With `not_after`,
    /// times are clamped to it.
    pub fn commit_scratch(
        &self,
        scratch: Scratch,
        compression: Compression,
        not_after: Option<i64>,
    ) -> Result<Option<Layer>> {
        let upper = scratch.upper();
        if fs::read_dir(&upper).at("list", &upper)?.next().is_none() {
            return Ok(None);
        }
        let layer = self.add_layer_from(&upper, compression, not_after)?;
        // With clamped times the folder differs from its layer: it is unpacked from the blob when needed.
        if not_after.is_none() && !self.is_unpacked(&layer.diff_id) {
            self.place(scratch, &layer.diff_id)?;
        }
        Ok(Some(layer))
    }

    /// Stores the tree below `dir` as a layer blob: digest and diff-id in one pass.
    pub fn add_layer_from(
        &self,
        dir: &Path,
        compression: Compression,
        not_after: Option<i64>,
    ) -> Result<Layer> {
        let blob = self.blobs.writer()?;
        let encoder = compression.encoder(blob).at("write layer of", dir)?;
        let out = io::BufWriter::with_capacity(128 << 10, Tee { hasher: Hasher::new(), out: encoder });
        let full = |error: Error| error.full_in(self.blobs.dir());
        let tee = pack_directory(dir, out, not_after).map_err(full)?;
        let tee = tee.into_inner().map_err(io::IntoInnerError::into_error).at("write layer of", dir);
        let Tee { hasher, out } = tee.map_err(full)?;
        let blob: BlobWriter = out.finish().at("write layer of", dir).map_err(full)?;
        let (digest, size) = blob.commit(None)?;
        let descriptor = Descriptor::new(compression.layer_media_type(), digest, size);
        Ok(Layer { descriptor, diff_id: hasher.finish() })
    }

    /// Flushes unpacked layers to disk, so that they outlive a power cut without being unpacked again.
    pub fn settle(&self) -> Result<()> {
        let mut fresh = Vec::new();
        for entry in fs::read_dir(&self.layers).at("list", &self.layers)? {
            let mark = entry.at("list", &self.layers)?.path().join("boot");
            if fs::read_to_string(&mark).is_ok_and(|boot| boot == *self.boot_id) {
                fresh.push(mark);
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let dir = File::open(&self.layers).at("open", &self.layers)?;
        rustix::fs::syncfs(&dir).at("flush", &self.layers)?;
        fresh.iter().try_for_each(|mark| fsx::replace_file(mark, SETTLED.as_bytes()))
    }

    /// Keeps an image from garbage collection under a name of the caller's, across restarts.
    pub fn lease(&self, name: &str, manifests: &[Digest]) -> Result<()> {
        self.leases.set(name, manifests)
    }

    /// As [`Store::resolve`], with a lease that begins before a collection could take anything of the image.
    pub fn hold(&self, text: &str, lease: &str) -> Result<ResolvedImage> {
        self.held(text, lease, Leases::set)
    }

    /// As [`Store::hold`], for who does not outlive the machine: the lease is not flushed to disk.
    pub fn hold_for_now(&self, text: &str, lease: &str) -> Result<ResolvedImage> {
        self.held(text, lease, Leases::set_for_now)
    }

    fn held(
        &self,
        text: &str,
        lease: &str,
        set: impl FnOnce(&Leases, &str, &[Digest]) -> Result<()>,
    ) -> Result<ResolvedImage> {
        let (reference, target) = self.find(text)?;
        {
            // A collection under way has read the leases already.
            let _none = fsx::lock(&self.data_dir.join("gc.lock"), FlockOperation::LockShared)?;
            set(&self.leases, lease, &[self.manifest(&target)?.0])?;
        }
        match self.resolve_descriptor(&target) {
            Ok(image) => Ok(ResolvedImage { reference, ..image }),
            Err(error) => {
                self.release(lease)?;
                Err(error)
            }
        }
    }

    /// The names of all leases.
    pub fn leases(&self) -> Result<Vec<String>> {
        Ok(self.leases.all()?.into_iter().map(|(name, _)| name).collect())
    }

    /// The names of leases that hold this image, sorted.
    pub fn holders(&self, target: &Descriptor) -> Result<Vec<String>> {
        let id = self.manifest(target)?.1.config.digest;
        let of =
            |manifest: &Digest| Some(Manifest::parse(&self.document(manifest).ok()?).ok()?.config.digest);
        let leases = self.leases.all()?.into_iter();
        let mut names: Vec<String> = leases
            .filter(|(_, manifests)| manifests.iter().any(|manifest| of(manifest) == Some(id)))
            .map(|(name, _)| name)
            .collect();
        names.sort();
        Ok(names)
    }

    /// Ends a lease; one that is not there is fine.
    pub fn release(&self, name: &str) -> Result<()> {
        self.leases.remove(name)
    }
}

const SETTLED: &str = "settled";

/// The right to unpack one layer.
struct Turn<'a> {
    store: &'a Store,
    diff_id: Digest,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.store.unpacking.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.diff_id);
        self.store.unpacked.notify_all();
    }
}

pub(crate) fn pair_layers(
    digest: &Digest,
    layers: Vec<Descriptor>,
    config: &ImageConfig,
) -> Result<Vec<Layer>> {
    if layers.len() != config.rootfs.diff_ids.len() {
        return Err(Error::document(
            format!("manifest {digest}"),
            format!("has {} layers but its configuration {}", layers.len(), config.rootfs.diff_ids.len()),
        ));
    }
    let pair = |(descriptor, diff_id): (_, &Digest)| Layer { descriptor, diff_id: *diff_id };
    Ok(layers.into_iter().zip(&config.rootfs.diff_ids).map(pair).collect())
}

/// Hashes what passes on to `out`.
struct Tee<W> {
    hasher: Hasher,
    out: W,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Unpacks a layer blob and returns the digest of its uncompressed content. One thread decodes and
/// hashes while this one writes files.
fn unpack_blob(blob: impl Read + Send, target: &Path, algorithm: Algorithm) -> Result<Digest> {
    const CHUNK: usize = 256 << 10;
    let (full, chunks) = mpsc::sync_channel::<io::Result<Vec<u8>>>(8);
    std::thread::scope(|scope| {
        let decode = scope.spawn(move || {
            let mut hasher = Hasher::by(algorithm);
            let mut decoder = match Decoder::new(blob) {
                Ok(decoder) => decoder,
                Err(e) => {
                    full.send(Err(e)).ok();
                    return hasher;
                }
            };
            loop {
                let mut chunk = Vec::with_capacity(CHUNK);
                match decoder.by_ref().take(CHUNK as u64).read_to_end(&mut chunk) {
                    Ok(0) => return hasher,
                    Ok(_) => hasher.update(&chunk),
                    Err(e) => {
                        full.send(Err(e)).ok();
                        return hasher;
                    }
                }
                // The unpacking side gave up: its error is the one to report.
                if full.send(Ok(chunk)).is_err() {
                    return hasher;
                }
            }
        });
        unpack_into(Chunks { chunks, current: Vec::new(), at: 0 }, target, &UnpackOptions::default())?;
        decode.join().map(Hasher::finish).map_err(|_| Error::Layer("could not be decoded".into()))
    })
}

/// Reads what another thread sends.
struct Chunks {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            match self.chunks.recv() {
                Ok(chunk) => (self.current, self.at) = (chunk?, 0),
                Err(_) => return Ok(0),
            }
        }
        let n = buf.len().min(self.current.len() - self.at);
        buf[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
