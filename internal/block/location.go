package block

// Location is a position on WGS 84 as a machine asserts it, and where it comes
// from. What is nil is not known.
type Location struct {
	Latitude, Longitude float64  // degrees
	Altitude            *float64 // metres
	Accuracy            *float64 // metres, radius
	Timestamp           *int64   // Unix seconds when the fix was taken
	Age                 *int64   // seconds between fix and signing
	Source              string   // static, gpsd, …
}
