//! The kinds of objects that we follow, and what each becomes in the model.

use std::fmt::Debug;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::{Resource, ResourceExt as _, core::PartialObjectMeta};
use serde::de::DeserializeOwned;

use crate::{
    model::{Change, EndpointSlice, Node, ObjectName, OwnPod, Pod, Service},
    objects::{self, Converted},
};

/// A kind of object that we follow.
pub trait Followed: Resource + Clone + DeserializeOwned + Debug + Send + 'static {
    /// What the model keeps of one.
    type Value;
    /// That, and what is wrong with the object.
    fn convert(&self) -> Converted<Self::Value>;
    /// All there are.
    fn all(values: Vec<Self::Value>) -> Change;
    /// One that is new or different; `None` when it is gone, or nothing of it is for us.
    fn one(name: ObjectName, value: Option<Self::Value>) -> Option<Change>;
}

/// Namespace and name of an object.
pub fn name_of<K: Resource>(object: &K) -> ObjectName {
    ObjectName::new(object.namespace().unwrap_or_default(), object.name_any())
}

impl Followed for core::Service {
    type Value = Service;

    fn convert(&self) -> Converted<Service> {
        let converted = objects::service(self);
        Converted { value: converted.value.map(|service| service.service), problems: converted.problems }
    }

    fn all(values: Vec<Service>) -> Change {
        Change::AllServices(values)
    }

    fn one(name: ObjectName, value: Option<Service>) -> Option<Change> {
        Some(Change::Service(name, value.map(Box::new)))
    }
}

impl Followed for discovery::EndpointSlice {
    type Value = EndpointSlice;

    fn convert(&self) -> Converted<EndpointSlice> {
        objects::slice(self)
    }

    fn all(values: Vec<EndpointSlice>) -> Change {
        Change::AllSlices(values)
    }

    fn one(name: ObjectName, value: Option<EndpointSlice>) -> Option<Change> {
        Some(Change::Slice(name, value.map(Box::new)))
    }
}

impl Followed for core::Node {
    type Value = Node;

    fn convert(&self) -> Converted<Node> {
        objects::node(self)
    }

    fn all(values: Vec<Node>) -> Change {
        values.into_iter().next().map_or(Change::NoNode, Change::Node)
    }

    /// A node that is deleted while its agent runs keeps what is known of it.
    fn one(_: ObjectName, value: Option<Node>) -> Option<Change> {
        value.map(Change::Node)
    }
}

/// The pods of this node: their names, and whether they want to be left alone, which their metadata tells.
impl Followed for PartialObjectMeta<core::Pod> {
    type Value = OwnPod;

    fn convert(&self) -> Converted<OwnPod> {
        objects::own_pod(&self.metadata)
    }

    fn all(values: Vec<OwnPod>) -> Change {
        Change::AllOwnPods(values)
    }

    fn one(name: ObjectName, value: Option<OwnPod>) -> Option<Change> {
        Some(Change::OwnPod(name, value))
    }
}

/// All pods: their labels, and the ports that they declare.
impl Followed for core::Pod {
    type Value = Pod;

    fn convert(&self) -> Converted<Pod> {
        let converted = objects::pod_facts(self);
        Converted { value: converted.value.map(|facts| facts.pod()), problems: converted.problems }
    }

    fn all(values: Vec<Pod>) -> Change {
        Change::AllPods(values)
    }

    fn one(name: ObjectName, value: Option<Pod>) -> Option<Change> {
        Some(Change::Pod(name, value.map(Box::new)))
    }
}
