//! API servers. Ours is a small one that speaks the real protocol: lists in pages, watches with bookmarks, compacts (410), drops
//! connections, stalls and goes away on command. Objects are what tests put in; nothing is validated. A real one takes
//! objects, goes away and comes back, and none of the other faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::world::{Node, World};

pub mod access;
mod broken;
mod disorder;
mod events;
mod http;
mod real;

pub use real::assets;

/// The resources served: path, kind of the list.
const RESOURCES: [(&str, &str); 7] = [
    ("/api/v1/services", "v1 ServiceList"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1 EndpointSliceList"),
    ("/api/v1/nodes", "v1 NodeList"),
    ("/api/v1/pods", "v1 PodList"),
    ("/apis/networking.k8s.io/v1/servicecidrs", "networking.k8s.io/v1 ServiceCIDRList"),
    ("/apis/networking.istio.io/v1beta1/virtualservices", "networking.istio.io/v1beta1 VirtualServiceList"),
    ("/apis/networking.istio.io/v1beta1/destinationrules", "networking.istio.io/v1beta1 DestinationRuleList"),
];

/// Something that happened to an object.
#[derive(Clone, Debug)]
struct Event {
    version: u64,
    path: &'static str,
    kind: &'static str,
    object: Value,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    objects: BTreeMap<(&'static str, String), Value>,
    events: Vec<Event>,
    /// Watches from an older version get 410.
    oldest: u64,
    /// Lists of these paths wait.
    stalled: BTreeSet<&'static str>,
    /// Whoever asks for these paths gets this status.
    failing: BTreeMap<&'static str, u16>,
    /// Raised to end every open watch.
    generation: u64,
    /// Minor version of Kubernetes; 32 and later stream lists unless `refuses_streams`.
    minor: u32,
    refuses_streams: bool,
    /// How many lists were streamed.
    streams: u32,
    /// Whether the definitions of rule objects are there.
    serves_rules: bool,
    /// Whether it is new enough for ServiceCIDRs.
    serves_service_cidrs: bool,
    /// Connections are kept and new ones accepted, but nothing is ever answered.
    frozen: bool,
    /// Lists have at most this many objects on a page until one has had several: after its first, all versions up to then are
    /// forgotten.
    forgets_after: Option<usize>,
    /// This many of the next requests are answered 429.
    throttled: u32,
    /// Every request is answered 503, with this many seconds to wait.
    unavailable: Option<u32>,
    /// What `Authorization` must say, if somebody said so.
    token: Option<String>,
    /// What may be asked for; everything if nobody said.
    allowed: Option<BTreeSet<access::Right>>,
    /// What was.
    asked: BTreeSet<access::Right>,
    /// How often each path was listed.
    lists: BTreeMap<&'static str, u32>,
    /// What goes with the next listing of its path, which still has it.
    vanishing: Option<(&'static str, String)>,
    /// Events that were published, by path.
    published: BTreeMap<String, Value>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the server speaks.
    async fn thawed(&self) {
        let mut changes = self.changed.subscribe();
        while self.lock().frozen {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn edit<T>(&self, edit: impl FnOnce(&mut State) -> T) -> T {
        let value = edit(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
        value
    }
}

/// A server in the node's network, at a fixed port of the node's address.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    netns: String,
    address: SocketAddr,
    running: Option<http::Running>,
    real: Option<real::Real>,
    kubeconfig: PathBuf,
}

impl ApiServer {
    /// A running server without objects.
    pub fn start(node: &Node) -> Self {
        Self::start_at(node, 6443)
    }

    /// The same at another port, for a second one.
    pub fn start_at(node: &Node, port: u16) -> Self {
        let address = SocketAddr::from((node.host.v4, port));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        let mut server = Self::new(node, address, &config);
        server.up();
        server
    }

    /// A real one, from the programs in `assets`.
    pub fn start_real(world: &World, assets: &Path) -> Self {
        let address = SocketAddr::from((world.node().v4, 6443));
        let real = real::Real::start(world, assets, address.port());
        let server = Self::new(world, address, &real.kubeconfig());
        Self { real: Some(real), ..server }
    }

    fn new(node: &Node, address: SocketAddr, config: &Value) -> Self {
        let kubeconfig = node.folder().join(format!("kubeconfig-{}", address.port()));
        std::fs::write(&kubeconfig, config.to_string()).expect("a kubeconfig can be written");
        let shared = Arc::new(Shared { state: Mutex::default(), changed: watch::channel(0).0 });
        Self { shared, netns: node.host.netns.clone(), address, running: None, real: None, kubeconfig }
    }

    /// Our own server's state.
    fn shared(&self) -> &Shared {
        assert!(self.real.is_none(), "a real API server does not do that on command");
        &self.shared
    }

    /// The kubeconfig that leads here.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig.display().to_string()
    }

    /// Where it is.
    pub fn url(&self) -> String {
        self.real.as_ref().map_or_else(|| format!("http://{}", self.address), |real| real.url().to_owned())
    }

    /// Starts serving, with what it knew before.
    pub fn up(&mut self) {
        if let Some(real) = &mut self.real {
            return real.up();
        }
        self.running = Some(http::serve(&self.netns, self.address, Arc::clone(&self.shared)));
    }

    /// Stops serving: connections end, new ones are refused. Objects and versions stay.
    pub fn down(&mut self) {
        self.running = None;
        if let Some(real) = &mut self.real {
            real.down();
        }
    }

    /// Puts the objects of a YAML text in.
    ///
    /// # Panics
    /// The text is not YAML, or of a kind that is not served.
    pub fn apply(&self, text: &str) {
        let documents = text.split("---\n").filter(|document| !document.trim().is_empty());
        let objects: Vec<Value> =
            documents.map(|document| serde_saphyr::from_str(document).expect("objects are YAML")).collect();
        match &self.real {
            Some(real) => real.apply_all(&objects),
            None => objects.into_iter().for_each(|object| self.put(object)),
        }
    }

    /// Makes objects of any kind, and waits until they are in use; of a real server.
    ///
    /// # Panics
    /// It is not a real one, or refuses one.
    pub fn make<'o>(&self, objects: impl IntoIterator<Item = &'o Value>) {
        let real = self.real.as_ref().expect("a real API server");
        objects.into_iter().for_each(|object| real.make(object));
    }

    /// Whether a real server would take an object that has none but known fields; nothing comes of it.
    ///
    /// # Errors
    /// What it says.
    ///
    /// # Panics
    /// It is not a real one.
    pub fn try_out(&self, object: &Value) -> Result<(), String> {
        self.real.as_ref().expect("a real API server").try_out(object)
    }

    /// Puts one object in; of our own server.
    pub fn put(&self, mut object: Value) {
        let path = path_of(&object);
        let key = key_of(&object);
        self.shared.edit(|state| {
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let known = state.objects.insert((path, key), object.clone()).is_some();
            let kind = if known { "MODIFIED" } else { "ADDED" };
            state.events.push(Event { version: state.version, path, kind, object });
        });
    }

    /// Deletes `Kind namespace/name`.
    ///
    /// # Panics
    /// It is not there.
    pub fn delete(&self, kind: &str, name: &str) {
        if let Some(real) = &self.real {
            return real.delete(kind, name);
        }
        let path = path_of(&json!({ "kind": kind }));
        self.shared.edit(|state| {
            let object = state.objects.remove(&(path, name.to_owned())).expect("a known object");
            state.version += 1;
            state.events.push(Event { version: state.version, path, kind: "DELETED", object });
        });
    }

    /// Sends every watch a bookmark with the current version, as a real server does by itself.
    pub fn bookmark(&self) {
        if self.real.is_some() {
            return;
        }
        self.shared.edit(|state| {
            state.version += 1;
            for (path, _) in RESOURCES {
                let mut object = empty_object(path);
                object["metadata"] = json!({"resourceVersion": state.version.to_string()});
                state.events.push(Event { version: state.version, path, kind: "BOOKMARK", object });
            }
        });
    }

    /// Forgets all events: whoever watches from before now is told 410.
    pub fn compact(&self) {
        self.shared().edit(|state| {
            state.version += 1;
            state.oldest = state.version;
            state.events.clear();
        });
    }

    /// Becomes a server of this minor version, which streams lists or refuses to, as far as its version knows of them.
    pub fn version(&self, minor: u32, refuses_streams: bool) {
        self.shared().edit(|state| (state.minor, state.refuses_streams) = (minor, refuses_streams));
    }

    /// Installs the definitions of rule objects, in an older version.
    pub fn serve_rules(&self) {
        self.shared().edit(|state| state.serves_rules = true);
    }

    /// Serves ServiceCIDRs from now on, as servers of 1.33 and later do.
    pub fn serve_service_cidrs(&self) {
        self.shared.edit(|state| state.serves_service_cidrs = true);
    }

    /// How many lists were streamed.
    pub fn streams(&self) -> u32 {
        self.shared().lock().streams
    }

    /// Keeps connections and takes new ones, but says nothing any more, as a server behind a broken path.
    pub fn freeze(&self, frozen: bool) {
        self.shared().edit(|state| state.frozen = frozen);
    }

    /// Answers the next `count` requests with 429.
    pub fn throttle(&self, count: u32) {
        self.shared().edit(|state| state.throttled = count);
    }

    /// How many requests are still to be answered with 429.
    pub fn throttled(&self) -> u32 {
        self.shared().lock().throttled
    }

    /// Ends every open watch.
    pub fn drop_watches(&self) {
        self.shared().edit(|state| state.generation += 1);
    }

    /// Makes lists of a kind wait, or go on.
    pub fn stall(&self, kind: &str, stalled: bool) {
        let path = path_of(&json!({ "kind": kind }));
        self.shared().edit(|state| match stalled {
            true => drop(state.stalled.insert(path)),
            false => drop(state.stalled.remove(path)),
        });
    }

    /// How often a kind was listed from the start.
    pub fn lists(&self, kind: &str) -> u32 {
        let path = path_of(&json!({ "kind": kind }));
        self.shared().lock().lists.get(path).copied().unwrap_or(0)
    }
}

/// What bookmarks carry: an object of the kind without anything in it.
fn empty_object(path: &str) -> Value {
    let list = RESOURCES.iter().find(|(of, _)| *of == path).map_or("", |(_, list)| *list);
    let (version, kind) = list.split_once(' ').expect("two words");
    json!({"apiVersion": version, "kind": kind.trim_end_matches("List"), "metadata": {}, "spec": {},
        "addressType": "IPv4", "endpoints": []})
}

fn path_of(object: &Value) -> &'static str {
    let kind = object["kind"].as_str().unwrap_or_default();
    let found = RESOURCES.iter().find(|(_, list)| list.ends_with(&format!(" {kind}List")));
    found.unwrap_or_else(|| panic!("kind {kind:?} is not served")).0
}

fn key_of(object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    if namespace.is_empty() { name } else { format!("{namespace}/{name}") }
}
