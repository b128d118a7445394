//! Requests over HTTP.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proto::{Effect, ErrorCode};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use super::{Call, Change, Condition, Document, Place, Reply, What, document, http_builder};

/// A client of any node. Connections are kept.
#[derive(Clone)]
pub struct Http {
    http: reqwest::Client,
}

impl Http {
    /// Connects at the first request.
    ///
    /// # Errors
    /// If HTTP cannot be set up.
    pub fn new() -> anyhow::Result<Http> {
        Ok(Http {
            http: http_builder()?.build()?,
        })
    }

    pub(super) async fn run(&self, origin: &str, call: &Call, repetition: Option<&str>) -> Reply {
        let Some(mut request) = self.request(origin, call) else {
            return Reply::refused("", "not offered over HTTP".to_owned());
        };
        if let Some(key) = repetition {
            request = request.header("idempotency-key", key);
        }
        match request.send().await {
            Ok(response) => concluded(call, response).await,
            // No connection, so nobody received anything.
            Err(error) if error.is_connect() => {
                Reply::refused("", format!("not connected: {error}"))
            }
            Err(error) => Reply::without_answer(call, error.to_string()),
        }
    }

    fn request(&self, origin: &str, call: &Call) -> Option<RequestBuilder> {
        let at = |method: Method, place: &Place| {
            self.http
                .request(method, format!("{origin}/v1{}", id(place)))
        };
        let json = |request: RequestBuilder, body: &Value| {
            request
                .header("content-type", "application/json")
                .body(body.to_string())
        };
        match call {
            Call::Get(place) => Some(at(Method::GET, place)),
            Call::Write(Change { place, what }, condition) => {
                let request = match what {
                    What::Put(body) => json(at(Method::PUT, place), body),
                    What::Update(operations) => json(at(Method::POST, place), operations),
                };
                Some(conditional(request, *condition))
            }
            Call::Delete(place, condition) => {
                Some(conditional(at(Method::DELETE, place), *condition))
            }
            Call::Batch(changes) => {
                let writes: Vec<Value> = changes.iter().map(change).collect();
                let request = self.http.post(format!("{origin}/v1/batch"));
                Some(json(request, &json!({ "writes": writes })))
            }
            Call::Range(..) => None,
        }
    }
}

/// `/db/bucket/key`.
fn id(place: &Place) -> String {
    format!(
        "/db/{}/{}",
        place.bucket,
        utf8_percent_encode(&place.key, NON_ALPHANUMERIC)
    )
}

fn change(change: &Change) -> Value {
    let (name, body) = match &change.what {
        What::Put(body) => ("put", body),
        What::Update(operations) => ("update", operations),
    };
    json!({ "id": id(&change.place), name: body })
}

fn conditional(request: RequestBuilder, condition: Condition) -> RequestBuilder {
    match condition {
        Condition::None => request,
        Condition::Absent => request.header("if-none-match", "*"),
        Condition::Version(version) => request.header("if-match", format!("\"{version}\"")),
    }
}

/// Reads an answer.
async fn concluded(call: &Call, response: Response) -> Reply {
    let status = response.status().as_u16();
    let effect = response
        .headers()
        .get("larder-effect")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let body = match response.bytes().await {
        Ok(body) => serde_json::from_slice(&body).unwrap_or(Value::Null),
        Err(error) => return Reply::without_answer(call, error.to_string()),
    };
    conclude(call, status, effect.as_deref(), body)
}

/// What a complete answer says. Only the promise of no effect is a failure; a bare status may be a proxy's.
fn conclude(call: &Call, status: u16, effect: Option<&str>, body: Value) -> Reply {
    let code = body["code"].as_str().unwrap_or_default().to_owned();
    match (status, effect) {
        (200 | 201 | 204, _) => match documents(call, body) {
            Ok(documents) => Reply::Ok(documents),
            Err(error) => Reply::without_answer(call, error.to_string()),
        },
        (404, _) if matches!(call, Call::Get(_)) && code == ErrorCode::ObjectNotFound.as_str() => {
            Reply::Ok(Vec::new())
        }
        (_, Some(effect)) if effect == Effect::None.as_str() => {
            let error = format!("{status} {code}");
            Reply::Fail { code, error }
        }
        _ => Reply::without_answer(call, format!("{status} {code}")),
    }
}

fn documents(call: &Call, body: Value) -> anyhow::Result<Vec<Document>> {
    match call {
        Call::Get(place) | Call::Write(Change { place, .. }, _) => {
            Ok(vec![document(&place.key, body)?])
        }
        Call::Delete(..) | Call::Range(..) => Ok(Vec::new()),
        Call::Batch(changes) => {
            let results = body["results"].as_array().cloned().unwrap_or_default();
            let documents = changes.iter().zip(results);
            documents
                .map(|(change, mut result)| document(&change.place.key, result["object"].take()))
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write() -> Call {
        let change = Change {
            place: Place::new("Demo", "k"),
            what: What::Put(json!({ "value": 7 })),
        };
        Call::Write(change, Condition::None)
    }

    #[test]
    fn only_the_promise_of_no_effect_is_a_failure() {
        let body = || json!({ "code": "unavailable" });
        let refused = conclude(&write(), 503, Some("none"), body());
        assert_eq!(
            refused,
            Reply::refused("unavailable", "503 unavailable".to_owned())
        );
        for (status, effect) in [
            (503, None),
            (503, Some("unknown")),
            (504, Some("unknown")),
            (500, None),
            (404, None),
            (502, Some("")),
        ] {
            let reply = conclude(&write(), status, effect, body());
            assert!(matches!(reply, Reply::Info { .. }), "{status} {effect:?}");
        }
        let no_node = conclude(&write(), 200, None, Value::Null);
        assert!(
            matches!(no_node, Reply::Info { .. }),
            "200 from something that is no node"
        );
    }

    #[test]
    fn a_read_without_an_answer_tells_nothing() {
        let read = Call::Get(Place::new("Demo", "k"));
        for (status, effect) in [
            (503, None),
            (504, Some("unknown")),
            (404, None),
            (200, None),
        ] {
            assert!(
                matches!(
                    conclude(&read, status, effect, Value::Null),
                    Reply::Fail { .. }
                ),
                "{status}"
            );
        }
        let missing = json!({ "code": "object_not_found" });
        assert_eq!(
            conclude(&read, 404, Some("none"), missing),
            Reply::Ok(Vec::new())
        );
    }

    #[test]
    fn keys_are_encoded_and_answers_give_their_documents() {
        assert_eq!(id(&Place::new("Demo", "{a}1")), "/db/Demo/%7Ba%7D1");
        let Reply::Ok(documents) =
            conclude(&write(), 200, None, json!({ "value": 7, "version": 3 }))
        else {
            panic!("it happened");
        };
        assert_eq!(
            (documents[0].version, &documents[0].json["value"]),
            (3, &json!(7))
        );
    }
}
