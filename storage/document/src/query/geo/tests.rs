//! Distances that are known, and polygons anywhere on the sphere against a test that does without a plane.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn point(longitude: f64, latitude: f64) -> Point {
    Point::new(longitude, latitude).expect("on earth")
}

fn polygon(rings: Json) -> Polygon {
    Polygon::of_json(&rings, &Limits::default()).expect("a polygon")
}

#[test]
fn distances_are_those_of_the_sphere() {
    let quarter = RADIUS_M * std::f64::consts::FRAC_PI_2;
    let near = |one: f64, two: f64| (one - two).abs() <= 1e-6 * two.max(1.0);
    assert!(near(point(0.0, 0.0).distance_m(point(90.0, 0.0)), quarter));
    assert!(near(
        point(13.0, 90.0).distance_m(point(77.0, -90.0)),
        2.0 * quarter
    ));
    assert!(near(
        point(179.5, 0.0).distance_m(point(-179.5, 0.0)),
        quarter / 90.0
    ));
    assert!(near(
        point(0.0, 89.0).distance_m(point(180.0, 89.0)),
        quarter / 45.0
    ));
    assert_eq!(point(180.0, 5.0).distance_m(point(180.0, 5.0)), 0.0);
    // A millimetre.
    let metres = point(10.0, 0.0).distance_m(point(10.0 + 0.001 / 111_318.8, 0.0));
    assert!((metres - 0.001).abs() < 1e-6, "{metres}");
}

#[test]
fn concave_polygons_and_holes_have_an_outside_within() {
    // A U over the antimeridian.
    let shape = polygon(json!([[
        [178, -3],
        [-178, -3],
        [-178, 3],
        [-179, 3],
        [-179, -2],
        [179, -2],
        [179, 3],
        [178, 3]
    ]]));
    assert!(shape.contains(point(178.5, 2.0)));
    assert!(shape.contains(point(-178.5, 2.0)));
    assert!(shape.contains(point(180.0, -2.5)));
    assert!(!shape.contains(point(180.0, 0.0)));
    assert!(!shape.contains(point(0.0, 0.0)));
    let holed = polygon(json!([
        [[0, 80], [90, 80], [180, 80], [-90, 80]],
        [[0, 89], [120, 89], [-120, 89]]
    ]));
    assert!(!holed.contains(point(45.0, 90.0)));
    assert!(holed.contains(point(45.0, 88.0)));
}

#[test]
fn edges_are_great_circles_and_inside() {
    let shape = polygon(json!([[[0, 50], [60, 50], [30, 30]]]));
    // The straight way from (0, 50) to (60, 50) goes north of the parallel.
    assert!(shape.contains(point(30.0, 53.0)));
    assert!(!shape.contains(point(30.0, 55.0)));
    let square = polygon(json!([[[0, 0], [10, 0], [10, 10], [0, 10]]]));
    for (longitude, latitude) in [(0.0, 0.0), (5.0, 0.0), (0.0, 5.0), (10.0, 10.0)] {
        assert!(square.contains(point(longitude, latitude)));
    }
    assert!(!square.contains(point(5.0, -0.000_001)));
}

#[test]
fn the_far_side_of_the_sphere_is_outside() {
    let shape = polygon(json!([[[0, 60], [90, 60], [180, 60], [-90, 60]]]));
    assert!(shape.contains(point(12.0, 85.0)));
    assert!(!shape.contains(point(12.0, -85.0)));
}

/// The point `radius` away from `centre` in the direction `azimuth`, all in radians.
fn around(centre: Vector, azimuth: f64, radius: f64) -> Vector {
    let axis = if centre[2].abs() < 0.9 {
        [0.0, 0.0, 1.0]
    } else {
        [1.0, 0.0, 0.0]
    };
    let east = unit(cross(axis, centre));
    let north = cross(centre, east);
    let (sine, cosine) = radius.sin_cos();
    [0, 1, 2].map(|at| {
        centre[at] * cosine + sine * (east[at] * azimuth.cos() + north[at] * azimuth.sin())
    })
}

fn place(vector: Vector) -> Point {
    let [x, y, z] = vector;
    let latitude = z.clamp(-1.0, 1.0).asin().to_degrees();
    point(y.atan2(x).to_degrees(), latitude)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Around a centre, counterclockwise, one is inside exactly if every edge is to the right of one.
    #[test]
    fn polygons_are_the_same_everywhere(
        longitude in prop_oneof![-180.0f64..180.0, 179.9f64..180.0, Just(-180.0)],
        latitude in prop_oneof![-90.0f64..90.0, 89.9f64..90.0, Just(-90.0), Just(90.0)],
        corners in 3usize..9,
        radius in prop_oneof![1e-4f64..1e-2, 0.01f64..1.3],
        turn in 0.0f64..6.0,
        azimuth in 0.0f64..6.3,
        distance in 0.0f64..1.5,
    ) {
        let centre = point(longitude, latitude).vector();
        let step = std::f64::consts::TAU / corners as f64;
        let ring: Vec<Point> =
            (0..corners).map(|at| place(around(centre, turn + step * at as f64, radius))).collect();
        let asked = place(around(centre, azimuth, distance * radius));
        let sides: Vec<f64> = (0..corners)
            .map(|at| {
                let (one, two) = (ring[at].vector(), ring[(at + 1) % corners].vector());
                dot(unit(cross(one, two)), asked.vector())
            })
            .collect();
        prop_assume!(sides.iter().all(|side| side.abs() > 1e-9));
        let coordinates: Vec<[f64; 2]> =
            ring.iter().map(|corner| [corner.longitude, corner.latitude]).collect();
        let shape = polygon(json!([coordinates]));
        let is_inside = sides.iter().all(|side| *side > 0.0);
        prop_assert_eq!(shape.contains(asked), is_inside);
        // The two sides of the sphere are never both inside.
        let antipode = place(asked.vector().map(|part| -part));
        prop_assert!(!is_inside || !shape.contains(antipode));
    }
}
