//! Places on earth: distances and areas.
//!
//! The earth is a sphere and edges are great circles, as in MongoDB. A polygon must lie within an open hemisphere, and its inside is
//! the part there. From the centre of a sphere such a hemisphere can be seen on a plane (the gnomonic projection), where great circles
//! are straight lines: so the question is one about a flat polygon, and poles and the antimeridian are places like any other.

use serde_json::Value as Json;

use super::number::Number;
use super::path::{Ending, Path, View};
use super::raw::{self, Name};
use super::value::Seen;
use super::{Error, Limits};

/// Radius of the earth in metres, as in MongoDB.
const RADIUS_M: f64 = 6_378_100.0;

/// A point on earth, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) latitude: f64,
    pub(crate) longitude: f64,
}

impl Point {
    fn new(longitude: f64, latitude: f64) -> Option<Point> {
        (latitude.abs() <= 90.0 && longitude.abs() <= 180.0).then_some(Point {
            latitude,
            longitude,
        })
    }

    /// `[longitude,latitude]`, as in GeoJSON.
    fn of_json(json: &Json) -> Result<Point, Error> {
        let Some([longitude, latitude]) = json.as_array().map(Vec::as_slice) else {
            return Err(Error::Syntax(
                "expected coordinates [longitude,latitude]".to_owned(),
            ));
        };
        let (Some(longitude), Some(latitude)) = (longitude.as_f64(), latitude.as_f64()) else {
            return Err(Error::Syntax("coordinates must be numbers".to_owned()));
        };
        Point::new(longitude, latitude).ok_or_else(|| {
            Error::InvalidValue(format!(
                "[{longitude},{latitude}] is no place on earth: longitude comes first, from -180 to 180, then latitude, from -90 to 90"
            ))
        })
    }

    /// The point in a value of a document: `{"latitude":…,"longitude":…}`, or a GeoJSON point in JSON fields.
    pub(crate) fn of_seen(seen: &Seen<'_>) -> Option<Point> {
        let Seen::Object(object) = seen else {
            return None;
        };
        let (mut latitude, mut longitude) = (None, None);
        for (name, value) in raw::members(object) {
            match name {
                b"\"latitude\"" => latitude = number(value),
                b"\"longitude\"" => longitude = number(value),
                _ => {}
            }
        }
        if let (Some(latitude), Some(longitude)) = (latitude, longitude) {
            return Point::new(longitude, latitude);
        }
        if Name::new("type").of(object) != Some(b"\"Point\"") {
            return None;
        }
        let mut coordinates = raw::elements(Name::new("coordinates").of(object)?);
        Point::new(number(coordinates.next()?)?, number(coordinates.next()?)?)
    }

    /// The distance in metres along the sphere, by the haversine formula, which is exact for small ones.
    pub(crate) fn distance_m(self, other: Point) -> f64 {
        let half_latitude = (other.latitude - self.latitude).to_radians() / 2.0;
        let half_longitude = (other.longitude - self.longitude).to_radians() / 2.0;
        let parallel = self.latitude.to_radians().cos() * other.latitude.to_radians().cos();
        let haversine = half_latitude.sin().powi(2) + parallel * half_longitude.sin().powi(2);
        2.0 * RADIUS_M * haversine.min(1.0).sqrt().asin()
    }

    /// The same distance as an angle at the middle of the earth.
    pub(crate) fn radians(self, other: Point) -> f64 {
        self.distance_m(other) / RADIUS_M
    }

    fn vector(self) -> Vector {
        let (latitude, longitude) = (self.latitude.to_radians(), self.longitude.to_radians());
        [
            latitude.cos() * longitude.cos(),
            latitude.cos() * longitude.sin(),
            latitude.sin(),
        ]
    }
}

fn number(bytes: &[u8]) -> Option<f64> {
    Number::parse(bytes).map(Number::as_double)
}

/// The distance in metres from `point` to the nearest of the points that `path` leads to; `None` if there is none.
pub(crate) fn nearest(path: &Path, view: &View<'_>, point: Point) -> Option<f64> {
    let mut nearest: Option<f64> = None;
    path.any(view, Ending::Expanded, |seen, _| {
        if let Some(found) = Point::of_seen(seen) {
            let metres = point.distance_m(found);
            nearest = Some(nearest.map_or(metres, |nearest| nearest.min(metres)));
        }
        false
    });
    nearest
}

/// Near a point: at least and at most so many metres away.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Near {
    pub(crate) point: Point,
    min_m: f64,
    max_m: f64,
}

impl Near {
    /// `{"$geometry":{"type":"Point","coordinates":[lng,lat]},"$maxDistance":metres,"$minDistance":metres}`.
    pub(crate) fn of_json(json: &Json) -> Result<Near, Error> {
        let members = object(json, "$nearSphere")?;
        let mut near = Near {
            point: Point {
                latitude: 0.0,
                longitude: 0.0,
            },
            min_m: 0.0,
            max_m: f64::INFINITY,
        };
        let mut is_placed = false;
        for (name, value) in members {
            match name.as_str() {
                "$geometry" => {
                    near.point = Point::of_json(coordinates(value, "Point")?)?;
                    is_placed = true;
                }
                "$maxDistance" => near.max_m = metres(value)?,
                "$minDistance" => near.min_m = metres(value)?,
                other => return Err(unsupported("$nearSphere", other)),
            }
        }
        if !is_placed {
            return Err(Error::Syntax("$nearSphere lacks $geometry".to_owned()));
        }
        Ok(near)
    }

    /// The greatest distance as an angle at the middle of the earth; may be infinite.
    pub(crate) fn max_radians(&self) -> f64 {
        self.max_m / RADIUS_M
    }

    pub(crate) fn holds(&self, seen: &Seen<'_>) -> bool {
        Point::of_seen(seen).is_some_and(|point| {
            let metres = self.point.distance_m(point);
            self.min_m <= metres && metres <= self.max_m
        })
    }
}

fn metres(json: &Json) -> Result<f64, Error> {
    json.as_f64()
        .filter(|metres| *metres >= 0.0)
        .ok_or_else(|| {
            Error::Syntax("a distance must be a number of metres, not below 0".to_owned())
        })
}

/// An area on earth.
#[derive(Clone, Debug)]
pub(crate) enum Region {
    Polygon(Polygon),
    /// All points at most so many radians away.
    Cap(Point, f64),
}

impl Region {
    /// `{"$geometry":{"type":"Polygon","coordinates":[[[lng,lat],…],…]}}` or `{"$centerSphere":[[lng,lat],radians]}`.
    pub(crate) fn of_json(json: &Json, limits: &Limits) -> Result<Region, Error> {
        let members = object(json, "$geoWithin")?;
        let mut members = members.iter();
        let (Some((name, value)), None) = (members.next(), members.next()) else {
            return Err(Error::Syntax("$geoWithin takes one area".to_owned()));
        };
        match name.as_str() {
            "$geometry" => {
                Polygon::of_json(coordinates(value, "Polygon")?, limits).map(Region::Polygon)
            }
            "$centerSphere" => {
                let Some([centre, radius]) = value.as_array().map(Vec::as_slice) else {
                    return Err(Error::Syntax(
                        "expected $centerSphere [[longitude,latitude],radians]".to_owned(),
                    ));
                };
                Ok(Region::Cap(Point::of_json(centre)?, metres(radius)?))
            }
            other => Err(unsupported("$geoWithin", other)),
        }
    }

    pub(crate) fn holds(&self, seen: &Seen<'_>) -> bool {
        Point::of_seen(seen).is_some_and(|point| match self {
            Region::Polygon(polygon) => polygon.contains(point),
            Region::Cap(centre, radians) => centre.distance_m(point) <= radians * RADIUS_M,
        })
    }
}

fn object<'j>(json: &'j Json, operator: &str) -> Result<&'j serde_json::Map<String, Json>, Error> {
    json.as_object()
        .ok_or_else(|| Error::Unsupported(format!("{operator} without $geometry")))
}

fn unsupported(operator: &str, member: &str) -> Error {
    Error::Unsupported(format!(
        "{operator} with {:?}",
        crate::json::excerpt(member)
    ))
}

/// The coordinates of a GeoJSON geometry of this type.
fn coordinates<'j>(geometry: &'j Json, ty: &str) -> Result<&'j Json, Error> {
    let members = object(geometry, "a place")?;
    match members.get("type").and_then(Json::as_str) {
        Some(found) if found == ty => {}
        _ => return Err(Error::Unsupported(format!("a $geometry that is no {ty}"))),
    }
    if members.contains_key("crs") {
        return Err(Error::Unsupported(
            "a $geometry with another crs".to_owned(),
        ));
    }
    members
        .get("coordinates")
        .ok_or_else(|| Error::Syntax("a $geometry lacks its coordinates".to_owned()))
}

/// A polygon as it is seen from the middle of the sphere on the plane that touches the sphere at `centre`.
#[derive(Clone, Debug)]
pub(crate) struct Polygon {
    centre: Vector,
    east: Vector,
    north: Vector,
    /// Each ring's corners, the first one not repeated. Rings within rings are holes.
    rings: Vec<Vec<[f64; 2]>>,
}

type Vector = [f64; 3];

/// Cosine of the greatest distance of a corner from the centre, some 89.4 degrees: beyond it the plane has no room.
const COSINE_MIN: f64 = 0.01;

/// Attempts to find the centre of a hemisphere. Polygons that are clearly smaller than one take a few.
const CENTRE_ATTEMPTS: usize = 10_000;

/// How far from an edge, in units of the plane, a point still is on it: some ten micrometres near the centre. The edge is inside.
const ON_EDGE: f64 = 1e-12;

impl Polygon {
    /// The rings of a GeoJSON polygon; they need not be closed.
    fn of_json(json: &Json, limits: &Limits) -> Result<Polygon, Error> {
        let malformed = || Error::Syntax("expected a list of rings of coordinates".to_owned());
        let rings = json.as_array().ok_or_else(malformed)?;
        let count: usize = rings
            .iter()
            .filter_map(|ring| ring.as_array().map(Vec::len))
            .sum();
        if count > limits.polygon_points_max {
            return Err(Error::Limit {
                what: "points of a polygon",
                limit: limits.polygon_points_max,
            });
        }
        let mut corners: Vec<Vec<Vector>> = Vec::with_capacity(rings.len());
        for ring in rings {
            let mut points = ring
                .as_array()
                .ok_or_else(malformed)?
                .iter()
                .map(Point::of_json)
                .collect::<Result<Vec<Point>, Error>>()?;
            if points.len() > 1 && points.first() == points.last() {
                points.pop();
            }
            if points.len() < 3 {
                return Err(Error::Syntax(
                    "a ring of a polygon needs three different points".to_owned(),
                ));
            }
            corners.push(points.into_iter().map(Point::vector).collect());
        }
        if corners.is_empty() {
            return Err(malformed());
        }
        let centre = centre(corners.iter().flatten()).ok_or_else(|| {
            Error::Unsupported(
                "$geoWithin with a polygon that does not lie in one hemisphere".to_owned(),
            )
        })?;
        // Any two directions across the centre will do; the axis that is farthest from it gives stable ones.
        let axis = (0..3)
            .min_by(|&one, &two| centre[one].abs().total_cmp(&centre[two].abs()))
            .map_or([0.0; 3], |at| {
                let mut axis = [0.0; 3];
                axis[at] = 1.0;
                axis
            });
        let east = unit(cross(axis, centre));
        let north = cross(centre, east);
        let mut polygon = Polygon {
            centre,
            east,
            north,
            rings: Vec::new(),
        };
        polygon.rings = corners
            .iter()
            .map(|ring| ring.iter().map(|&corner| polygon.project(corner)).collect())
            .collect();
        Ok(polygon)
    }

    fn project(&self, vector: Vector) -> [f64; 2] {
        let depth = dot(vector, self.centre);
        [
            dot(vector, self.east) / depth,
            dot(vector, self.north) / depth,
        ]
    }

    /// The distance to the nearest edge as an angle at the middle of the earth.
    pub(crate) fn edge_radians(&self, point: Point) -> f64 {
        let vector = point.vector();
        let corner = |[x, y]: [f64; 2]| {
            let along = |at: usize| self.centre[at] + x * self.east[at] + y * self.north[at];
            unit([along(0), along(1), along(2)])
        };
        let mut nearest = f64::INFINITY;
        for ring in &self.rings {
            let mut previous = corner(ring[ring.len() - 1]);
            for &next in ring {
                let next = corner(next);
                nearest = nearest.min(arc_radians(vector, previous, next));
                previous = next;
            }
        }
        nearest
    }

    /// Whether the point is inside or on an edge. Points within an odd number of rings are inside.
    pub(crate) fn contains(&self, point: Point) -> bool {
        let vector = point.vector();
        // The inside lies between the corners, so it is no farther from the centre than they are.
        if dot(vector, self.centre) < COSINE_MIN / 2.0 {
            return false;
        }
        let [x, y] = self.project(vector);
        let mut is_inside = false;
        for ring in &self.rings {
            let mut previous = ring[ring.len() - 1];
            for &corner in ring {
                let [x1, y1] = previous;
                let [x2, y2] = corner;
                previous = corner;
                if is_on_edge([x, y], [x1, y1], [x2, y2]) {
                    return true;
                }
                if (y1 > y) != (y2 > y) && x < (x2 - x1) * (y - y1) / (y2 - y1) + x1 {
                    is_inside = !is_inside;
                }
            }
        }
        is_inside
    }
}

fn is_on_edge([x, y]: [f64; 2], [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) -> bool {
    let (dx, dy) = (x2 - x1, y2 - y1);
    let (px, py) = (x - x1, y - y1);
    let length = dx.hypot(dy);
    let across = (dx * py - dy * px).abs();
    let along = dx * px + dy * py;
    across <= ON_EDGE * length.max(ON_EDGE)
        && along >= -ON_EDGE * length
        && along <= length * (length + ON_EDGE)
}

/// The middle of a hemisphere that has all the vectors in it; `None` if none was found.
///
/// Begins with their mean and turns towards a vector that is left out, until none is (the perceptron algorithm).
fn centre<'v>(vectors: impl Iterator<Item = &'v Vector> + Clone) -> Option<Vector> {
    let mut sum = [0.0; 3];
    for vector in vectors.clone() {
        sum = add(sum, *vector);
    }
    for _ in 0..CENTRE_ATTEMPTS.div_ceil(vectors.clone().count().max(1)) + 10 {
        let centre = unit(sum);
        let Some(outside) = vectors
            .clone()
            .filter(|vector| dot(**vector, centre) < COSINE_MIN)
            .min_by(|one, two| dot(**one, centre).total_cmp(&dot(**two, centre)))
        else {
            return centre[0].is_finite().then_some(centre);
        };
        sum = add(centre, *outside);
    }
    None
}

/// The angle between a point and the nearest one of the shorter arc of a great circle between two others.
fn arc_radians(point: Vector, from: Vector, to: Vector) -> f64 {
    let angle = |other| {
        let across = cross(point, other);
        dot(across, across).sqrt().atan2(dot(point, other))
    };
    let ends = angle(from).min(angle(to));
    let normal = cross(from, to);
    let length = dot(normal, normal).sqrt();
    let is_beside = dot(point, cross(normal, from)) > 0.0 && dot(point, cross(to, normal)) > 0.0;
    if is_beside && length > 0.0 {
        (dot(point, normal).abs() / length)
            .min(1.0)
            .asin()
            .min(ends)
    } else {
        ends
    }
}

fn dot(one: Vector, two: Vector) -> f64 {
    one[0] * two[0] + one[1] * two[1] + one[2] * two[2]
}

fn cross(one: Vector, two: Vector) -> Vector {
    [
        one[1] * two[2] - one[2] * two[1],
        one[2] * two[0] - one[0] * two[2],
        one[0] * two[1] - one[1] * two[0],
    ]
}

fn add(one: Vector, two: Vector) -> Vector {
    [one[0] + two[0], one[1] + two[1], one[2] + two[2]]
}

fn unit(vector: Vector) -> Vector {
    let length = dot(vector, vector).sqrt();
    vector.map(|part| part / length)
}

#[cfg(test)]
mod tests;
