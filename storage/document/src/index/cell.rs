//! Places on earth on one line, so that areas are a few ranges of it.
//!
//! The line winds through latitudes and longitudes as through a square (Z-order, Morton 1966): both in 32 bits, their bits in turn, the
//! longitude's first. A cell is all places that agree in so many leading bits of both: a piece of the line, and an area between two
//! meridians and two parallels.
//!
//! An area is covered by cells that may touch it. Whether they do is judged by a circle around each, so a covering is never too small, and
//! somewhat too large: the filter is asked again for each document. Poles and the antimeridian take no special care, only more cells.
//!
//! Not the crate `s2`: its polygons are unfinished, and the areas of filters are judged by [`geo`](crate::query::geo) alone.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::encoding::PLACE;
use crate::query::geo::{Near, Point, Region};

/// Cells that an area is covered with, at most, and so ranges.
const CELLS_MAX: usize = 48;

/// Levels of cells: at the last one they are some 20 metres high.
const LEVELS: u32 = 20;

/// Bits of latitudes and longitudes.
const BITS: u32 = 32;

/// What all judgements of distances may be wrong by, in radians: less than a metre.
const ERROR: f64 = 1e-7;

/// Appends the place of a point on the line, with the byte that places begin with.
pub(super) fn write(out: &mut Vec<u8>, point: Point) {
    // Saturates, so that the last meridian and the pole belong to the last cells.
    let scaled = |part: f64| (part * f64::from(BITS).exp2()) as u32;
    let x = scaled((point.longitude + 180.0) / 360.0);
    let y = scaled((point.latitude + 90.0) / 180.0);
    out.push(PLACE);
    out.extend_from_slice(&(spread(x) << 1 | spread(y)).to_be_bytes());
}

/// The bits with a zero before each.
fn spread(bits: u32) -> u64 {
    let mut spread = u64::from(bits);
    for (shift, mask) in [
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555),
    ] {
        spread = (spread | spread << shift) & mask;
    }
    spread
}

/// How an area stands to the circle around a cell.
enum Touch {
    Outside,
    Partly,
    Whole,
}

/// Pieces of the line that hold all places near a point: first and end, with the byte that places begin with.
pub(super) fn near(near: &Near) -> Vec<(Vec<u8>, Vec<u8>)> {
    covering(&|centre, radius| cap(near.point, near.max_radians(), centre, radius))
}

/// The same of all places in an area.
pub(super) fn within(region: &Region) -> Vec<(Vec<u8>, Vec<u8>)> {
    match region {
        Region::Cap(middle, radians) => {
            covering(&|centre, radius| cap(*middle, *radians, centre, radius))
        }
        Region::Polygon(polygon) => covering(&|centre, radius| {
            // Without an edge in it the circle is on one side of all of them.
            let is_inside = polygon.contains(centre);
            if polygon.edge_radians(centre) > radius {
                if is_inside {
                    Touch::Whole
                } else {
                    Touch::Outside
                }
            } else {
                Touch::Partly
            }
        }),
    }
}

fn cap(middle: Point, radians: f64, centre: Point, radius: f64) -> Touch {
    let distance = middle.radians(centre);
    if distance > radians + radius {
        Touch::Outside
    } else if distance + radius < radians {
        Touch::Whole
    } else {
        Touch::Partly
    }
}

/// Ordered by size, the greatest first, then by place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    level: Reverse<u32>,
    /// Its number on the line among those of its level.
    number: u64,
    x: u32,
    y: u32,
}

impl Cell {
    fn children(self) -> impl Iterator<Item = Cell> {
        (0..4).map(move |child: u32| Cell {
            level: Reverse(self.level.0 + 1),
            number: self.number << 2 | u64::from(child),
            x: self.x << 1 | child >> 1,
            y: self.y << 1 | child & 1,
        })
    }

    /// The middle, and a distance in radians within which all its places lie.
    fn circle(self) -> (Point, f64) {
        let parts = f64::from(self.level.0).exp2();
        let (width, height) = (360.0 / parts, 180.0 / parts);
        let middle = Point {
            longitude: -180.0 + width * (f64::from(self.x) + 0.5),
            latitude: -90.0 + height * (f64::from(self.y) + 0.5),
        };
        // Along the meridian to the place's parallel, then along that: as long as the longest of them is.
        let lowest = (middle.latitude.abs() - height / 2.0).max(0.0);
        let radius = height / 2.0 + width / 2.0 * lowest.to_radians().cos();
        (middle, radius.to_radians() + ERROR)
    }

    fn range(self) -> (u64, Option<u64>) {
        let shift = 2 * (BITS - self.level.0);
        if shift >= u64::BITS {
            return (0, None);
        }
        let last = self.number + 1 == 1 << (2 * self.level.0);
        let end = (!last).then(|| (self.number + 1) << shift);
        (self.number << shift, end)
    }
}

fn covering(touch: &dyn Fn(Point, f64) -> Touch) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut waiting = BinaryHeap::from([Cell {
        level: Reverse(0),
        number: 0,
        x: 0,
        y: 0,
    }]);
    let mut taken: Vec<Cell> = Vec::new();
    while let Some(cell) = waiting.pop() {
        if cell.level.0 == LEVELS {
            taken.push(cell);
            continue;
        }
        let mut whole = Vec::new();
        let mut partly = Vec::new();
        for child in cell.children() {
            let (centre, radius) = child.circle();
            match touch(centre, radius) {
                Touch::Outside => {}
                Touch::Partly => partly.push(child),
                Touch::Whole => whole.push(child),
            }
        }
        let is_room = taken.len() + waiting.len() + whole.len() + partly.len() <= CELLS_MAX;
        if !is_room || whole.len() == 4 {
            taken.push(cell);
        } else {
            taken.extend(whole);
            waiting.extend(partly);
        }
    }
    taken.sort_unstable_by_key(|cell| cell.range().0);
    let mut ranges: Vec<(u64, Option<u64>)> = Vec::with_capacity(taken.len());
    for cell in taken {
        let (from, to) = cell.range();
        match ranges.last_mut() {
            Some(last) if last.1 == Some(from) => last.1 = to,
            _ => ranges.push((from, to)),
        }
    }
    let bytes = |place: u64| [&[PLACE][..], &place.to_be_bytes()].concat();
    ranges
        .into_iter()
        .map(|(from, to)| (bytes(from), to.map_or(vec![PLACE + 1], bytes)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::query::Limits;

    fn longitude() -> impl Strategy<Value = f64> {
        prop_oneof![4 => -180.0..=180.0f64, 1 => Just(180.0), 1 => Just(-180.0), 1 => 179.9..=180.0]
    }

    fn latitude() -> impl Strategy<Value = f64> {
        prop_oneof![4 => -90.0..=90.0f64, 1 => Just(90.0), 1 => Just(-90.0), 1 => 89.9..=90.0]
    }

    fn point() -> impl Strategy<Value = Point> {
        (longitude(), latitude()).prop_map(|(longitude, latitude)| Point {
            latitude,
            longitude,
        })
    }

    /// Mostly near another one.
    fn points() -> impl Strategy<Value = (Point, Point)> {
        let off = prop_oneof![-0.01..0.01f64, -1.0..1.0, -30.0..30.0];
        (point(), point(), off.clone(), off, 0..4).prop_map(|(one, two, x, y, near)| {
            let moved = Point {
                latitude: (one.latitude + y).clamp(-90.0, 90.0),
                longitude: (one.longitude + x + 540.0).rem_euclid(360.0) - 180.0,
            };
            (one, if near == 0 { two } else { moved })
        })
    }

    fn covers(ranges: &[(Vec<u8>, Vec<u8>)], point: Point) -> bool {
        let mut place = Vec::new();
        write(&mut place, point);
        ranges
            .iter()
            .any(|(from, to)| place >= *from && place < *to)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn circles_are_covered((centre, other) in points(), more in 0.0..0.1f64) {
            let radians = centre.radians(other) * (1.0 + more);
            let ranges = within(&Region::Cap(centre, radians));
            prop_assert!(ranges.len() <= CELLS_MAX);
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
            prop_assert!(covers(&ranges, other), "{other:?} of {centre:?}: {ranges:?}");
        }

        #[test]
        fn polygons_are_covered(
            centre in point(),
            sizes in prop::collection::vec(0.01..1.0f64, 3..7),
            scale in prop_oneof![0.01..0.1f64, 1.0..40.0],
            inside in prop::collection::vec((-1.0..1.0f64, -1.0..1.0f64), 16),
        ) {
            let at = |x: f64, y: f64| {
                let longitude = (centre.longitude + x * scale + 540.0).rem_euclid(360.0) - 180.0;
                (longitude, (centre.latitude + y * scale).clamp(-90.0, 90.0))
            };
            let corners: Vec<[f64; 2]> = sizes
                .iter()
                .enumerate()
                .map(|(corner, size)| {
                    let angle = corner as f64 / sizes.len() as f64 * std::f64::consts::TAU;
                    at(angle.cos() * size, angle.sin() * size).into()
                })
                .collect();
            let json = json!({"$geometry": {"type": "Polygon", "coordinates": [corners]}});
            let Ok(region) = Region::of_json(&json, &Limits::default()) else { return Ok(()) };
            let ranges = within(&region);
            let corners = corners.iter().map(|corner| (corner[0], corner[1]));
            for (longitude, latitude) in inside.iter().map(|(x, y)| at(*x, *y)).chain(corners) {
                let point = Point { latitude, longitude };
                let is_inside = match &region {
                    Region::Polygon(polygon) => polygon.contains(point),
                    Region::Cap(..) => false,
                };
                prop_assert!(!is_inside || covers(&ranges, point), "{point:?} in {region:?}: {ranges:?}");
            }
        }
    }

    #[test]
    fn small_areas_are_few_places() {
        // Ten kilometres around Hamburg: of places all over Germany, few others are looked at.
        let centre = Point {
            latitude: 53.55,
            longitude: 10.0,
        };
        let ranges = within(&Region::Cap(centre, 10.0 / 6378.1));
        let (mut inside, mut covered) = (0, 0);
        for step in 0..40_000 {
            let point = Point {
                latitude: 53.55 + f64::from(step / 200 - 100) / 200.0,
                longitude: 10.0 + f64::from(step % 200 - 100) / 100.0,
            };
            inside += u32::from(centre.distance_m(point) <= 10_000.0);
            covered += u32::from(covers(&ranges, point));
        }
        assert!(inside > 500 && covered >= inside, "{covered} for {inside}");
        assert!(covered < inside * 2, "{covered} for {inside}");
    }
}
