package api

// ErrorBody is the JSON of every answer that is not a success. RetryAfter also
// stands in the header of that name.
type ErrorBody struct {
	Error      string `json:"error"`
	Reason     Reason `json:"reason"`
	Help       string `json:"help,omitempty"`
	RetryAfter int    `json:"retry_after,omitempty"` // seconds
}
