//! Localities in DestinationRules, as far as zones go: slices say the zone of an endpoint, and not its region.

/// What a locality, `region/zone/subzone` or `*`, means of zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zones<'a> {
    /// All.
    Any,
    /// One.
    Only(&'a str),
}

impl<'a> Zones<'a> {
    /// `None` where no zone is named: which zones a region has is not known. Subzones are not looked at.
    pub fn of(locality: &'a str) -> Option<Self> {
        if locality == "*" {
            return Some(Self::Any);
        }
        let zone = locality.split('/').nth(1)?;
        (!zone.is_empty() && zone != "*").then_some(Self::Only(zone))
    }

    /// Whether `zone` is meant.
    pub fn has(self, zone: Option<&str>) -> bool {
        match self {
            Self::Any => true,
            Self::Only(only) => zone == Some(only),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locality_names_a_zone() {
        for (text, want) in [
            ("*", Some(Zones::Any)),
            ("us-west/zone-1", Some(Zones::Only("zone-1"))),
            ("us-west/zone-1/*", Some(Zones::Only("zone-1"))),
            ("us-west/zone-1/rack-2", Some(Zones::Only("zone-1"))),
            ("us-west", None),
            ("us-west/*", None),
            ("us-west/", None),
            ("", None),
        ] {
            assert_eq!(Zones::of(text), want, "{text:?}");
        }
        assert!(Zones::Any.has(None) && !Zones::Only("a").has(None) && Zones::Only("a").has(Some("a")));
    }
}
