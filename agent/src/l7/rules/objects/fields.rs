//! Which fields each kind of object has and where, asked of the serde types so that no list can go stale.

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor, value::Error},
    forward_to_deserialize_any,
};

use super::*;

/// A place in an object, as in `spec.http[].route[]`, and the fields that it knows.
pub(super) struct Container {
    /// Path with the indices left out.
    pub(super) path: &'static str,
    /// Names of its fields.
    pub(super) fields: fn() -> &'static [&'static str],
}

const fn at<T: for<'de> Deserialize<'de>>(path: &'static str) -> Container {
    Container { path, fields: fields_of::<T> }
}

/// Places of a VirtualService, outer ones first.
pub(super) const VIRTUAL_SERVICE: &[Container] = &[
    at::<VirtualServiceSpec>("spec"),
    at::<HttpRoute>("spec.http[]"),
    at::<HttpMatch>("spec.http[].match[]"),
    at::<StringMatch>("spec.http[].match[].uri"),
    at::<HttpRouteDestination>("spec.http[].route[]"),
    at::<Destination>("spec.http[].route[].destination"),
    at::<PortSelector>("spec.http[].route[].destination.port"),
    at::<Headers>("spec.http[].route[].headers"),
    at::<HeaderOperations>("spec.http[].route[].headers.request"),
    at::<HeaderOperations>("spec.http[].route[].headers.response"),
    at::<Headers>("spec.http[].headers"),
    at::<HeaderOperations>("spec.http[].headers.request"),
    at::<HeaderOperations>("spec.http[].headers.response"),
    at::<Redirect>("spec.http[].redirect"),
    at::<DirectResponse>("spec.http[].directResponse"),
    at::<Body>("spec.http[].directResponse.body"),
    at::<Delegate>("spec.http[].delegate"),
    at::<Rewrite>("spec.http[].rewrite"),
    at::<RegexRewrite>("spec.http[].rewrite.uriRegexRewrite"),
    at::<Retries>("spec.http[].retries"),
    at::<Fault>("spec.http[].fault"),
    at::<Delay>("spec.http[].fault.delay"),
    at::<Abort>("spec.http[].fault.abort"),
    at::<Percent>("spec.http[].fault.delay.percentage"),
    at::<Percent>("spec.http[].fault.abort.percentage"),
    at::<Destination>("spec.http[].mirror"),
    at::<Percent>("spec.http[].mirrorPercentage"),
    at::<Mirror>("spec.http[].mirrors[]"),
    at::<Destination>("spec.http[].mirrors[].destination"),
    at::<CorsPolicy>("spec.http[].corsPolicy"),
    at::<TlsRoute>("spec.tls[]"),
    at::<TlsMatch>("spec.tls[].match[]"),
    at::<RouteDestination>("spec.tls[].route[]"),
    at::<Destination>("spec.tls[].route[].destination"),
    at::<TcpRoute>("spec.tcp[]"),
    at::<TcpMatch>("spec.tcp[].match[]"),
    at::<RouteDestination>("spec.tcp[].route[]"),
    at::<Destination>("spec.tcp[].route[].destination"),
];

/// Places of a DestinationRule, outer ones first.
pub(super) const DESTINATION_RULE: &[Container] = &[
    at::<DestinationRuleSpec>("spec"),
    at::<Subset>("spec.subsets[]"),
    at::<WorkloadSelector>("spec.workloadSelector"),
    at::<TrafficPolicy>("spec.trafficPolicy"),
    at::<LoadBalancer>("spec.trafficPolicy.loadBalancer"),
    at::<ConsistentHash>("spec.trafficPolicy.loadBalancer.consistentHash"),
    at::<ConnectionPool>("spec.trafficPolicy.connectionPool"),
    at::<TcpPool>("spec.trafficPolicy.connectionPool.tcp"),
    at::<HttpPool>("spec.trafficPolicy.connectionPool.http"),
    at::<OutlierDetection>("spec.trafficPolicy.outlierDetection"),
    at::<Tls>("spec.trafficPolicy.tls"),
    at::<PortPolicy>("spec.trafficPolicy.portLevelSettings[]"),
    at::<TrafficPolicy>("spec.subsets[].trafficPolicy"),
    at::<LoadBalancer>("spec.subsets[].trafficPolicy.loadBalancer"),
    at::<ConnectionPool>("spec.subsets[].trafficPolicy.connectionPool"),
    at::<OutlierDetection>("spec.subsets[].trafficPolicy.outlierDetection"),
    at::<Tls>("spec.subsets[].trafficPolicy.tls"),
];

/// The field names that serde's derive made for `T`.
fn fields_of<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // The error only ends the visit: the fields are known by then.
    let _stopped = T::deserialize(FieldNames { fields: &mut fields });
    fields
}

/// A deserializer without input, which notes what it is asked for.
struct FieldNames<'a> {
    fields: &'a mut &'static [&'static str],
}

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("no input"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.fields = fields;
        Err(de::Error::custom("no input"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
