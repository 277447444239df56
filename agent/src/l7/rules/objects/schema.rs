//! The OpenAPI schema of a type, asked of serde: a deserializer without input that notes what it is asked for and answers
//! with the least of it. What a type checks of a value beyond its kind is not in the schema.

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, EnumAccess, IntoDeserializer as _, MapAccess, SeqAccess, VariantAccess, Visitor,
        value::Error,
    },
    forward_to_deserialize_any,
};
use serde_json::{Map, Value, json};

/// Keeps what the API server does not know of, so that it comes to us, who tell the user of it.
const KEEP: &str = "x-kubernetes-preserve-unknown-fields";

/// The schema of `T`.
///
/// # Panics
/// A type of `T` takes no value of its own kind, or asks in a way that nothing here answers.
pub(super) fn of<T: for<'de> Deserialize<'de>>() -> Value {
    let mut schema = Value::Null;
    T::deserialize(Asked(&mut schema)).unwrap_or_else(|error| panic!("{schema}: {error}"));
    schema
}

/// Where to note what is asked for.
struct Asked<'s>(&'s mut Value);

/// Notes a simple kind, and gives that visitor a value of it.
macro_rules! simple {
    ($($method:ident => $schema:tt, $visit:ident($($value:expr)?);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            *self.0 = json!($schema);
            visitor.$visit($($value)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Error;

    simple! {
        deserialize_any => {KEEP: true}, visit_unit();
        deserialize_bool => {"type": "boolean"}, visit_bool(false);
        deserialize_i32 => {"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX}, visit_i32(0);
        deserialize_i64 => {"type": "integer"}, visit_i64(0);
        deserialize_u32 => {"type": "integer", "minimum": 0, "maximum": u32::MAX}, visit_u32(0);
        deserialize_u64 => {"type": "integer", "minimum": 0}, visit_u64(0);
        deserialize_f64 => {"type": "number"}, visit_f64(0.0);
        // A duration too.
        deserialize_str => {"type": "string"}, visit_str("0");
        deserialize_string => {"type": "string"}, visit_str("0");
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = visitor.visit_some(Asked(&mut *self.0))?;
        self.0["nullable"] = true.into();
        Ok(value)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut items = Value::Null;
        let value = visitor.visit_seq(Once(Some(&mut items)))?;
        *self.0 = json!({"type": "array", "items": items});
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut values = Value::Null;
        let value = visitor.visit_map(Once(Some(&mut values)))?;
        *self.0 = json!({"type": "object", "additionalProperties": values});
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut properties = Map::new();
        let value =
            visitor.visit_map(Fields { rest: fields.iter(), current: "", properties: &mut properties })?;
        *self.0 = json!({"type": "object", "properties": properties, KEEP: true});
        Ok(value)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = json!({"type": "string", "enum": variants});
        visitor.visit_enum(First(variants[0]))
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u128 f32 char bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct identifier
        ignored_any
    }
}

/// A list of one, or a map of one.
struct Once<'s>(Option<&'s mut Value>);

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|schema| seed.deserialize(Asked(schema))).transpose()
    }
}

impl<'de> MapAccess<'de> for Once<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.0.is_some().then(|| seed.deserialize("key".into_deserializer())).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Asked(self.0.take().unwrap_or(&mut Value::Null)))
    }
}

/// Every field of a struct.
struct Fields<'s> {
    rest: std::slice::Iter<'static, &'static str>,
    current: &'static str,
    properties: &'s mut Map<String, Value>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(field) = self.rest.next() else { return Ok(None) };
        self.current = field;
        seed.deserialize((*field).into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let schema = self.properties.entry(self.current).or_insert(Value::Null);
        seed.deserialize(Asked(schema))
    }
}

/// The first name of an enum.
struct First(&'static str);

impl<'de> EnumAccess<'de> for First {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        Ok((seed.deserialize(self.0.into_deserializer())?, self))
    }
}

impl<'de> VariantAccess<'de> for First {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, Error> {
        Err(serde::de::Error::custom("no rule object has an enum with values"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("no rule object has an enum with values"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("no rule object has an enum with values"))
    }
}
