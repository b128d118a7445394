//! The second factor (contract section 8.4), and API tokens (8.2).

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::CACHE_CONTROL;
use proto::ErrorCode;
use qrcode::{Color, QrCode};
use serde::{Deserialize, Serialize};
use service::Error;

use super::edge::Call;
use super::error::refuse;
use super::{respond, sessions};

/// The largest number of six digits.
const CODE_MAX: u32 = 999_999;
/// Pixels of a side of one module: a phone reads it off any screen.
const MODULE_PIXELS: usize = 6;
/// Blank modules around the code, as its standard wants.
const MARGIN_MODULES: usize = 4;

/// What an app is set up with.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Setup {
    qr_code: String,
    key_uri: String,
}

/// A code. Clients send a number, which has lost its leading zeros; a text is taken too.
#[derive(Deserialize)]
#[serde(untagged)]
enum Code {
    Number(u32),
    Text(String),
}

impl Code {
    fn number(&self) -> Result<u32, Error> {
        let number = match self {
            Code::Number(number) => Some(*number),
            Code::Text(text) if text.bytes().all(|digit| digit.is_ascii_digit()) => {
                text.parse().ok()
            }
            Code::Text(_) => None,
        };
        number
            .filter(|number| *number <= CODE_MAX)
            .ok_or_else(|| refuse(ErrorCode::BadRequest, "a code has six digits"))
    }
}

/// The end of the setting up.
#[derive(Deserialize)]
struct Finish {
    code: Code,
}

/// The second step of a log-in. Whether it is for long is the client's affair.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Login {
    auth_token: String,
    code: Code,
}

#[derive(Serialize)]
struct ApiToken {
    token: String,
}

/// `GET /db/User/mfa/status`.
pub(crate) async fn status(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    let status = call.shared.service.second_factor(&ctx).await?;
    Ok(unstored(respond::json(
        StatusCode::OK,
        respond::to_json(&status),
    )))
}

/// `GET /db/User/mfa/init`.
pub(crate) async fn begin(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    let key_uri = call.shared.service.begin_second_factor(&ctx).await?;
    let picture = png_of(&key_uri)?;
    let setup = Setup {
        qr_code: format!("data:image/png;base64,{}", STANDARD.encode(picture)),
        key_uri,
    };
    Ok(unstored(respond::json(
        StatusCode::OK,
        respond::to_json(&setup),
    )))
}

/// `POST /db/User/mfa/init`.
pub(crate) async fn finish(mut call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    let body = call.read_body().await?;
    let finish: Finish = serde_json::from_slice(&body).map_err(|_| {
        refuse(
            ErrorCode::SyntaxError,
            "expected a JSON object with the number code",
        )
    })?;
    let code = finish.code.number()?;
    call.shared.service.finish_second_factor(&ctx, code).await?;
    // Not empty: some clients parse whatever comes with 200.
    Ok(respond::json(StatusCode::OK, "{}"))
}

/// `POST /db/User/mfa/token`.
pub(crate) async fn login(mut call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.anonymous_context();
    let body = call.read_body().await?;
    let login: Login = serde_json::from_slice(&body).map_err(|_| {
        refuse(
            ErrorCode::SyntaxError,
            "expected a JSON object with the text authToken and the number code",
        )
    })?;
    let code = login.code.number()?;
    let session = call
        .shared
        .service
        .finish_login(&ctx, &login.auth_token, code)
        .await?;
    sessions::session(session)
}

/// `DELETE /db/User/mfa`.
pub(crate) async fn drop_it(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    call.shared.service.drop_second_factor(&ctx).await?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

/// `POST /db/User/:oid/token`. Not in the header of tokens: that would log the client in as that user.
pub(crate) async fn make_token(call: Call<'_>, user: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    let token = call.shared.service.make_api_token(&ctx, user).await?;
    Ok(unstored(respond::json(
        StatusCode::OK,
        respond::to_json(&ApiToken { token }),
    )))
}

/// `DELETE /db/User/:oid/token`.
pub(crate) async fn revoke_tokens(call: Call<'_>, user: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    call.shared.service.revoke_tokens(&ctx, user).await?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

fn unstored(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(CACHE_CONTROL, respond::NO_STORE);
    response
}

/// A QR code as a PNG picture, black on white.
fn png_of(text: &str) -> Result<Vec<u8>, Error> {
    let failed = |cause: &dyn std::fmt::Display| {
        tracing::error!(%cause, "no QR code can be made");
        refuse(ErrorCode::Internal, "internal error")
    };
    let code = QrCode::new(text).map_err(|error| failed(&error))?;
    let modules = code.width();
    let side = (modules + 2 * MARGIN_MODULES) * MODULE_PIXELS;
    let is_dark = |x: usize, y: usize| {
        let at = |pixel: usize| (pixel / MODULE_PIXELS).checked_sub(MARGIN_MODULES);
        match (at(x), at(y)) {
            (Some(x), Some(y)) if x < modules && y < modules => code[(x, y)] == Color::Dark,
            _ => false,
        }
    };
    // One bit for a pixel, rows padded to whole bytes.
    let row_bytes = side.div_ceil(8);
    let mut pixels = vec![0xff_u8; row_bytes * side];
    for y in 0..side {
        for x in (0..side).filter(|x| is_dark(*x, y)) {
            pixels[y * row_bytes + x / 8] &= !(0x80 >> (x % 8));
        }
    }
    let mut picture = Vec::new();
    let side = u32::try_from(side).unwrap_or(u32::MAX);
    let mut encoder = png::Encoder::new(&mut picture, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    let mut writer = encoder.write_header().map_err(|error| failed(&error))?;
    writer
        .write_image_data(&pixels)
        .and_then(|()| writer.finish())
        .map_err(|error| failed(&error))?;
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbers_of_at_most_six_digits() {
        let number = |json: &str| {
            let code: Result<Code, _> = serde_json::from_str(json);
            code.ok().and_then(|code| code.number().ok())
        };
        assert_eq!(number("5924"), Some(5_924));
        assert_eq!(number("\"005924\""), Some(5_924));
        assert_eq!(number("999999"), Some(999_999));
        for bad in [
            "1000000",
            "-1",
            "1.5",
            "\"+5924\"",
            "\"\"",
            "\"12345x\"",
            "null",
            "[1]",
        ] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_picture_is_the_code_with_a_margin() {
        let picture =
            png_of("otpauth://totp/Larder:ann?secret=GEZDGNBVGY3TQOJQ").expect("a picture");
        let mut reader = png::Decoder::new(std::io::Cursor::new(picture))
            .read_info()
            .expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
        let info = reader.next_frame(&mut pixels).expect("a frame");
        assert_eq!(
            (info.width, info.color_type),
            (info.height, png::ColorType::Grayscale)
        );
        let side = info.width as usize;
        let dark = |x: usize, y: usize| {
            let byte = pixels[y * info.line_size + x / 8];
            byte & (0x80 >> (x % 8)) == 0
        };
        let (margin, module) = (MARGIN_MODULES * MODULE_PIXELS, MODULE_PIXELS);
        assert!((0..side).all(|x| !dark(x, margin - 1)));
        // The corner pattern: seven dark, with a light ring inside.
        assert!((0..7).all(|x| dark(margin + x * module, margin)));
        assert!(!dark(margin + 7 * module, margin) && !dark(margin + module, margin + module));
    }
}
