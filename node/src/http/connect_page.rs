//! Connect as an HTML page (contract section 2.2): what a browser client on another origin loads into a hidden frame.
//!
//! The page holds the answer to connect and a script, the bridge (`connect_bridge.js`), which sends the embedding page's further requests
//! from this origin. It may be framed by anyone: it holds nothing but what its loader's own token shows.

use axum::body::Body;
use axum::response::Response;
use http::HeaderValue;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap};

use super::respond;

const HTML: HeaderValue = HeaderValue::from_static("text/html;charset=utf-8");

/// Has no `</script` in it, which would end its element.
const BRIDGE: &str = include_str!("connect_bridge.js");

/// The form field with the token.
const TOKEN_FIELD: &str = "BAT";

/// Whether the client would rather have a page than JSON. One that does not say gets JSON.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    weight(headers, "text/html") > weight(headers, "application/json")
}

/// The weight that `accept` gives to exactly this kind; 0 if it does not name it.
fn weight(headers: &HeaderMap, kind: &str) -> f32 {
    let lines = headers.get_all(ACCEPT).iter();
    let items = lines.flat_map(|line| line.to_str().unwrap_or_default().split(','));
    for item in items {
        let mut parts = item.split(';').map(str::trim);
        if parts.next() == Some(kind) {
            let weight = parts.find_map(|part| part.strip_prefix("q="));
            return weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        }
    }
    0.0
}

/// The token in a submitted form (`application/x-www-form-urlencoded`), if there is one.
pub(crate) fn token_of(form: &[u8]) -> Option<String> {
    form_urlencoded::parse(form)
        .find(|(name, value)| name == TOKEN_FIELD && !value.is_empty())
        .map(|(_, token)| token.into_owned())
}

/// The page around an answer to connect, as JSON, and the token in it.
///
/// Without an answer it is the bridge alone, which then asks for connect like for anything else: a frame that shows an error instead
/// would leave its client waiting, and never learning why.
pub(crate) fn page(answer: Option<(&[u8], Option<&str>)>) -> Response {
    let mut html = String::from(
        "<!DOCTYPE html>\n<html>\n<head><meta charset=\"utf-8\"><title>larder</title></head>\n<body>\n",
    );
    if let Some((json, token)) = answer {
        // Used once: whoever connects again wants the schema and the token of then.
        html.push_str(r#"<script type="application/json" id="/connect" data-cache-control="no-cache" data-token=""#);
        html.push_str(&attribute(token.unwrap_or_default()));
        html.push_str("\">");
        html.push_str(&script_data(json));
        html.push_str("</script>\n");
    }
    html.push_str("<script>\n");
    html.push_str(BRIDGE);
    html.push_str("</script>\n</body>\n</html>\n");
    let mut response = Response::new(Body::from(html));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HTML);
    headers.insert(CACHE_CONTROL, respond::NO_STORE);
    response
}

/// JSON that cannot end or reopen the script element around it. In JSON `<` stands only inside of texts, where it may be escaped.
pub(crate) fn script_data(json: &[u8]) -> String {
    String::from_utf8_lossy(json).replace('<', "\\u003c")
}

fn attribute(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('"', "&quot;")
        .replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text_of(response: Response) -> String {
        let body = response.into_body().collect().await.expect("body");
        String::from_utf8(body.to_bytes().to_vec()).expect("utf-8")
    }

    #[test]
    fn a_page_is_for_those_who_prefer_it() {
        for (accept, page) in [
            ("text/html", true),
            ("text/html,application/xhtml+xml,*/*;q=0.8", true),
            ("text/html, application/json;q=0.9", true),
            ("application/json", false),
            ("application/json, text/html;q=0.5", false),
            ("text/html;q=0", false),
            ("*/*", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().expect("header"))]);
            assert_eq!(is_wanted(&headers), page, "{accept}");
        }
        assert!(!is_wanted(&HeaderMap::new()));
    }

    #[test]
    fn a_form_names_its_token() {
        assert_eq!(token_of(b"BAT=5f00"), Some("5f00".to_owned()));
        assert_eq!(token_of(b"x=1&BAT=a%2Bb"), Some("a+b".to_owned()));
        for none in [&b""[..], b"BAT=", b"BAT", b"bat=1", b"\xff"] {
            assert_eq!(token_of(none), None, "{none:?}");
        }
    }

    #[tokio::test]
    async fn the_page_holds_the_answer_and_the_bridge() {
        let json = br#"{"user":{"name":"</script><!--"}}"#;
        let response = page(Some((json, Some("5f\"<"))));
        assert_eq!(response.headers()[CONTENT_TYPE], "text/html;charset=utf-8");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        let html = text_of(response).await;
        let element = r#"<script type="application/json" id="/connect" data-cache-control="no-cache" data-token="5f&quot;&lt;">{"user":{"name":"\u003c/script>\u003c!--"}}</script>"#;
        assert!(html.contains(element), "{html}");
        assert!(html.contains(BRIDGE));
        assert_eq!(html.matches("</script").count(), 2, "{html}");
    }

    #[tokio::test]
    async fn without_an_answer_it_is_the_bridge_alone() {
        let html = text_of(page(None)).await;
        assert!(!html.contains(r#"id="/connect""#) && html.contains(BRIDGE));
    }
}
