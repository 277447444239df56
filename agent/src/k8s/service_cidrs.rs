//! ServiceCIDR objects: the networks that cluster IPs are taken from. API servers before 1.33 do not have them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use k8s_openapi::{api::networking::v1::ServiceCIDR, apimachinery::pkg::apis::meta::v1::APIResourceList};
use kube::{Api, Client, Error};

use super::{
    kinds::Followed,
    listing::{Common, Listing},
};
use crate::{
    model::{Change, ObjectName},
    objects::{self, Converted},
};

/// The API group.
pub const GROUP: &str = "networking.k8s.io";
const PLURAL: &str = "servicecidrs";
/// How often a kind that is not there is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Followed for ServiceCIDR {
    type Value = (ObjectName, Vec<IpNet>);

    fn convert(&self) -> Converted<Self::Value> {
        objects::service_cidr(self)
    }

    fn all(values: Vec<Self::Value>) -> Change {
        Change::AllServiceCidrs(values)
    }

    fn one(name: ObjectName, value: Option<Self::Value>) -> Option<Change> {
        Some(Change::ServiceCidr(name, value.map(|(_, networks)| networks)))
    }
}

/// Follows them where they are served; elsewhere there are none, until they come. Returns when this API server has failed
/// too often and there is another one.
///
/// # Errors
/// Nobody takes the news.
pub async fn follow(client: &Client, common: Common<'_>) -> Result<()> {
    loop {
        match are_served(client).await {
            Ok(true) => {
                let listing = Listing::<ServiceCIDR>::new(PLURAL, common);
                return listing.follow(Api::all(client.clone()), common.config.clone()).await;
            }
            Ok(false) => {
                let none = vec![Change::AllServiceCidrs(Vec::new())];
                common.news.send(none).context("the programming thread is gone")?;
            }
            // The other listings say what is wrong with the server.
            Err(error) => tracing::debug!(%error, "cannot ask whether ServiceCIDRs are served"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn are_served(client: &Client) -> Result<bool, Error> {
    let request =
        http::Request::get(format!("/apis/{GROUP}/v1")).body(Vec::new()).map_err(Error::HttpError)?;
    match client.request::<APIResourceList>(request).await {
        Ok(kinds) => Ok(kinds.resources.iter().any(|kind| kind.name == PLURAL)),
        Err(Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}
