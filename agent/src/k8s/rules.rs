//! VirtualServices and DestinationRules: kept whole, for `l7` to read. Their definitions may be there or not, in one
//! version or another.

use std::{borrow::Cow, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIResourceList, ObjectMeta};
use kube::{Api, Client, Error, Resource, core::NamespaceResourceScope};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, value::RawValue};

use super::{
    kinds::Followed,
    listing::{Common, Listing},
    unread,
};
use crate::{
    model::{Change, ObjectName, RuleKind},
    objects::Converted,
};

/// The API group of rule objects.
pub const GROUP: &str = "networking.istio.io";
/// Those that we read, the best one first. What is in them is the same.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];
/// How often definitions that are not there are looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The version that an API server serves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Version(&'static str);

impl Default for Version {
    fn default() -> Self {
        Self(VERSIONS[0])
    }
}

/// A kind of rule object.
trait Rule {
    const KIND: RuleKind;
    const PLURAL: &'static str;
}

macro_rules! rule {
    ($name:ident, $plural:literal) => {
        /// One object. Its text, but for the metadata: one that cannot be read is no reason to lose a list of others.
        #[derive(Clone, Debug)]
        pub struct $name {
            metadata: ObjectMeta,
            text: Box<RawValue>,
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Box::<RawValue>::deserialize(deserializer)?;
                let metadata = unread::metadata(text.get()).map_err(serde::de::Error::custom)?;
                Ok(Self { metadata, text })
            }
        }

        impl Rule for $name {
            const KIND: RuleKind = RuleKind::$name;
            const PLURAL: &'static str = $plural;
        }

        impl Resource for $name {
            type DynamicType = Version;
            type Scope = NamespaceResourceScope;

            fn kind(_: &Version) -> Cow<'_, str> {
                Cow::Borrowed(Self::KIND.name())
            }

            fn group(_: &Version) -> Cow<'_, str> {
                Cow::Borrowed(GROUP)
            }

            fn version(version: &Version) -> Cow<'_, str> {
                Cow::Borrowed(version.0)
            }

            fn plural(_: &Version) -> Cow<'_, str> {
                Cow::Borrowed(Self::PLURAL)
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }

        impl Followed for $name {
            type Value = (ObjectName, Arc<Value>);

            fn convert(&self) -> Converted<Self::Value> {
                let mut whole = unread::fields(self.text.get());
                whole.insert("apiVersion".to_owned(), format!("{GROUP}/{}", VERSIONS[0]).into());
                whole.insert("kind".to_owned(), Self::KIND.name().into());
                whole.insert("metadata".to_owned(), serde_json::to_value(&self.metadata).unwrap_or_default());
                let value = Some((super::kinds::name_of(self), Arc::new(Value::Object(whole))));
                Converted { value, problems: Vec::new() }
            }

            fn all(values: Vec<Self::Value>) -> Change {
                Change::AllRules(Self::KIND, values)
            }

            fn one(name: ObjectName, value: Option<Self::Value>) -> Option<Change> {
                Some(Change::Rule(Self::KIND, name, value.map(|(_, object)| object)))
            }
        }
    };
}

rule!(VirtualService, "virtualservices");
rule!(DestinationRule, "destinationrules");

/// Follows both kinds; without definitions there are none, until definitions come. Returns when this API server has
/// failed too often and there is another one.
///
/// # Errors
/// Nobody takes the news.
pub async fn follow(client: &Client, common: Common<'_>) -> Result<()> {
    loop {
        match served(client).await {
            Ok(Some((version, plurals))) => {
                let has = |plural: &str| plurals.iter().any(|name| name == plural);
                let (rules, policies) = (has(VirtualService::PLURAL), has(DestinationRule::PLURAL));
                tokio::select! {
                    result = one::<VirtualService>(client, common, &version, rules) => result?,
                    result = one::<DestinationRule>(client, common, &version, policies) => result?,
                }
            }
            Ok(None) => {
                let none = vec![VirtualService::all(Vec::new()), DestinationRule::all(Vec::new())];
                common.news.send(none).context("the programming thread is gone")?;
            }
            // The other listings say what is wrong with the server.
            Err(error) => tracing::debug!(%error, "cannot ask which rule objects are served"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Follows one kind, if it is served; returns when it is time to ask again what is.
async fn one<K: Followed<DynamicType = Version>>(
    client: &Client,
    common: Common<'_>,
    version: &Version,
    is_served: bool,
) -> Result<()> {
    if !is_served {
        common.news.send(vec![K::all(Vec::new())]).context("the programming thread is gone")?;
        tokio::time::sleep(LOOK_AGAIN).await;
        return Ok(());
    }
    let source = match K::plural(version) {
        plural if plural == VirtualService::PLURAL => VirtualService::PLURAL,
        _ => DestinationRule::PLURAL,
    };
    Listing::<K>::new(source, common)
        .follow(Api::all_with(client.clone(), version), common.config.clone())
        .await
}

/// The version in which the API server serves rule objects, if it does, and which kinds.
async fn served(client: &Client) -> Result<Option<(Version, Vec<String>)>, Error> {
    let get = |path: String| http::Request::get(path).body(Vec::new()).map_err(Error::HttpError);
    let group: APIGroup = match client.request(get(format!("/apis/{GROUP}"))?).await {
        Err(Error::Api(status)) if status.code == 404 => return Ok(None),
        answer => answer?,
    };
    let has = |version: &&str| group.versions.iter().any(|one| one.version == *version);
    let Some(version) = VERSIONS.into_iter().find(has) else { return Ok(None) };
    let kinds: APIResourceList = client.request(get(format!("/apis/{GROUP}/{version}"))?).await?;
    Ok(Some((Version(version), kinds.resources.into_iter().map(|kind| kind.name).collect())))
}
