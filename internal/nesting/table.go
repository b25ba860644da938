package nesting

// message is a kind of message, as pdata decodes it. What contains no value,
// however deep, stands here too: JSON is followed through all of it.
type message uint8

// The messages that pdata decodes on the way to values, and what lies beside them.
const (
	mNone message = iota // of JSON: any request
	mLogsRequest
	mResourceLogs
	mResource
	mKeyValue
	mAnyValue
	mArrayValue
	mKeyValueList
	mEntityRef
	mScopeLogs
	mInstrumentationScope
	mLogRecord
	mTraceRequest
	mResourceSpans
	mScopeSpans
	mSpan
	mSpanEvent
	mSpanLink
	mStatus
	mMetricsRequest
	mResourceMetrics
	mScopeMetrics
	mMetric
	mGauge
	mNumberDataPoint
	mExemplar
	mSum
	mHistogram
	mHistogramDataPoint
	mExponentialHistogram
	mExponentialHistogramDataPoint
	mExponentialHistogramDataPointBuckets
	mSummary
	mSummaryDataPoint
	mSummaryDataPointValueAtQuantile
	mProfilesRequest
	mResourceProfiles
	mScopeProfiles
	mProfile
	mValueType
	mSample
	mProfilesDictionary
	mMapping
	mLocation
	mLine
	mFunction
	mLink
	mKeyValueAndUnit
	mStack
	messages
)

// valueType is what pdata reads for a field from JSON.
type valueType uint8

const (
	anything valueType = iota // of fields that it does not know
	object                    // or null
	text                      // a string, or null
	raw                       // a string that is taken as it stands: identifiers, base64
	boolean
	int32s // a number or a string; enumerations too
	uint32s
	int64s
	uint64s
	float // a number or a string
)

// field is one of a message: its number, its two names in JSON, and what it
// holds.
type field struct {
	number  int
	camel   string
	snake   string
	holds   valueType
	message message
	list    bool
}

// schema is the messages of OTLP as pdata v1.65.0 has them, field
// 1000 of earlier versions included. Row mNone is all four requests at once: for
// JSON, whose names tell them apart.
var schema = [messages][]field{
	mNone: {
		{1, "resourceLogs", "resource_logs", object, mResourceLogs, true},
		{1, "resourceSpans", "resource_spans", object, mResourceSpans, true},
		{1, "resourceMetrics", "resource_metrics", object, mResourceMetrics, true},
		{1, "resourceProfiles", "resource_profiles", object, mResourceProfiles, true},
		{2, "dictionary", "", object, mProfilesDictionary, false},
	},
	mLogsRequest: {
		{1, "resourceLogs", "resource_logs", object, mResourceLogs, true},
	},
	mResourceLogs: {
		{1, "resource", "", object, mResource, false},
		{2, "scopeLogs", "scope_logs", object, mScopeLogs, true},
		{3, "schemaUrl", "schema_url", text, mNone, false},
		{1000, "deprecatedScopeLogs", "deprecated_scope_logs", object, mScopeLogs, true},
	},
	mResource: {
		{1, "attributes", "", object, mKeyValue, true},
		{2, "droppedAttributesCount", "dropped_attributes_count", uint32s, mNone, false},
		{3, "entityRefs", "entity_refs", object, mEntityRef, true},
	},
	mKeyValue: {
		{1, "key", "", text, mNone, false},
		{2, "value", "", object, mAnyValue, false},
		{3, "keyStrindex", "key_strindex", int32s, mNone, false},
	},
	mAnyValue: {
		{1, "stringValue", "string_value", text, mNone, false},
		{2, "boolValue", "bool_value", boolean, mNone, false},
		{3, "intValue", "int_value", int64s, mNone, false},
		{4, "doubleValue", "double_value", float, mNone, false},
		{5, "arrayValue", "array_value", object, mArrayValue, false},
		{6, "kvlistValue", "kvlist_value", object, mKeyValueList, false},
		{7, "bytesValue", "bytes_value", raw, mNone, false},
		{8, "stringValueStrindex", "string_value_strindex", int32s, mNone, false},
	},
	mArrayValue: {
		{1, "values", "", object, mAnyValue, true},
	},
	mKeyValueList: {
		{1, "values", "", object, mKeyValue, true},
	},
	mEntityRef: {
		{1, "schemaUrl", "schema_url", text, mNone, false},
		{2, "type", "", text, mNone, false},
		{3, "idKeys", "id_keys", text, mNone, true},
		{4, "descriptionKeys", "description_keys", text, mNone, true},
	},
	mScopeLogs: {
		{1, "scope", "", object, mInstrumentationScope, false},
		{2, "logRecords", "log_records", object, mLogRecord, true},
		{3, "schemaUrl", "schema_url", text, mNone, false},
	},
	mInstrumentationScope: {
		{1, "name", "", text, mNone, false},
		{2, "version", "", text, mNone, false},
		{3, "attributes", "", object, mKeyValue, true},
		{4, "droppedAttributesCount", "dropped_attributes_count", uint32s, mNone, false},
	},
	mLogRecord: {
		{1, "timeUnixNano", "time_unix_nano", uint64s, mNone, false},
		{11, "observedTimeUnixNano", "observed_time_unix_nano", uint64s, mNone, false},
		{2, "severityNumber", "severity_number", int32s, mNone, false},
		{3, "severityText", "severity_text", text, mNone, false},
		{5, "body", "", object, mAnyValue, false},
		{6, "attributes", "", object, mKeyValue, true},
		{7, "droppedAttributesCount", "dropped_attributes_count", uint32s, mNone, false},
		{8, "flags", "", uint32s, mNone, false},
		{9, "traceId", "trace_id", raw, mNone, false},
		{10, "spanId", "span_id", raw, mNone, false},
		{12, "eventName", "event_name", text, mNone, false},
	},
	mTraceRequest: {
		{1, "resourceSpans", "resource_spans", object, mResourceSpans, true},
	},
	mResourceSpans: {
		{1, "resource", "", object, mResource, false},
		{2, "scopeSpans", "scope_spans", object, mScopeSpans, true},
		{3, "schemaUrl", "schema_url", text, mNone, false},
		{1000, "deprecatedScopeSpans", "deprecated_scope_spans", object, mScopeSpans, true},
	},
	mScopeSpans: {
		{1, "scope", "", object, mInstrumentationScope, false},
		{2, "spans", "", object, mSpan, true},
		{3, "schemaUrl", "schema_url", text, mNone, false},
	},
	mSpan: {
		{1, "traceId", "trace_id", raw, mNone, false},
		{2, "spanId", "span_id", raw, mNone, false},
		{3, "traceState", "trace_state", text, mNone, false},
		{4, "parentSpanId", "parent_span_id", raw, mNone, false},
		{16, "flags", "", uint32s, mNone, false},
		{5, "name", "", text, mNone, false},
		{6, "kind", "", int32s, mNone, false},
		{7, "startTimeUnixNano", "start_time_unix_nano", uint64s, mNone, false},
		{8, "endTimeUnixNano", "end_time_unix_nano", uint64s, mNone, false},
		{9, "attributes", "", object, mKeyValue, true},
		{10, "droppedAttributesCount", "dropped_attributes_count", uint32s, mNone, false},
		{11, "events", "", object, mSpanEvent, true},
		{12, "droppedEventsCount", "dropped_events_count", uint32s, mNone, false},
		{13, "links", "", object, mSpanLink, true},
		{14, "droppedLinksCount", "dropped_links_count", uint32s, mNone, false},
		{15, "status", "", object, mStatus, false},
	},
	mSpanEvent: {
		{1, "timeUnixNano", "time_unix_nano", uint64s, mNone, false},
		{2, "name", "", text, mNone, false},
		{3, "attributes", "", object, mKeyValue, true},
		{4, "droppedAttributesCount", "dropped_attributes_count", uint32s, mNone, false},
	},
	mSpanLink: {
		{1, "traceId", "trace_id", raw, mNone, false},
		{2, "spanId", "span_id", raw, mNone, false},
		{3, "traceState", "trace_state", text, mNone, false},
		{4, "attributes", "", object, mKeyValue, true},
		{5, "droppedAttributesCount", "dropped_attributes_count", uint32s, mNone, false},
		{6, "flags", "", uint32s, mNone, false},
	},
	mStatus: {
		{2, "message", "", text, mNone, false},
		{3, "code", "", int32s, mNone, false},
	},
	mMetricsRequest: {
		{1, "resourceMetrics", "resource_metrics", object, mResourceMetrics, true},
	},
	mResourceMetrics: {
		{1, "resource", "", object, mResource, false},
		{2, "scopeMetrics", "scope_metrics", object, mScopeMetrics, true},
		{3, "schemaUrl", "schema_url", text, mNone, false},
		{1000, "deprecatedScopeMetrics", "deprecated_scope_metrics", object, mScopeMetrics, true},
	},
	mScopeMetrics: {
		{1, "scope", "", object, mInstrumentationScope, false},
		{2, "metrics", "", object, mMetric, true},
		{3, "schemaUrl", "schema_url", text, mNone, false},
	},
	mMetric: {
		{1, "name", "", text, mNone, false},
		{2, "description", "", text, mNone, false},
		{3, "unit", "", text, mNone, false},
		{5, "gauge", "", object, mGauge, false},
		{7, "sum", "", object, mSum, false},
		{9, "histogram", "", object, mHistogram, false},
		{10, "exponentialHistogram", "exponential_histogram", object, mExponentialHistogram, false},
		{11, "summary", "", object, mSummary, false},
		{12, "metadata", "", object, mKeyValue, true},
	},
	mGauge: {
		{1, "dataPoints", "data_points", object, mNumberDataPoint, true},
	},
	mNumberDataPoint: {
		{7, "attributes", "", object, mKeyValue, true},
		{2, "startTimeUnixNano", "start_time_unix_nano", uint64s, mNone, false},
		{3, "timeUnixNano", "time_unix_nano", uint64s, mNone, false},
		{4, "asDouble", "as_double", float, mNone, false},
		{6, "asInt", "as_int", int64s, mNone, false},
		{5, "exemplars", "", object, mExemplar, true},
		{8, "flags", "", uint32s, mNone, false},
	},
	mExemplar: {
		{7, "filteredAttributes", "filtered_attributes", object, mKeyValue, true},
		{2, "timeUnixNano", "time_unix_nano", uint64s, mNone, false},
		{3, "asDouble", "as_double", float, mNone, false},
		{6, "asInt", "as_int", int64s, mNone, false},
		{5, "traceId", "trace_id", raw, mNone, false},
		{4, "spanId", "span_id", raw, mNone, false},
	},
	mSum: {
		{1, "dataPoints", "data_points", object, mNumberDataPoint, true},
		{2, "aggregationTemporality", "aggregation_temporality", int32s, mNone, false},
		{3, "isMonotonic", "is_monotonic", boolean, mNone, false},
	},
	mHistogram: {
		{1, "dataPoints", "data_points", object, mHistogramDataPoint, true},
		{2, "aggregationTemporality", "aggregation_temporality", int32s, mNone, false},
	},
	mHistogramDataPoint: {
		{9, "attributes", "", object, mKeyValue, true},
		{2, "startTimeUnixNano", "start_time_unix_nano", uint64s, mNone, false},
		{3, "timeUnixNano", "time_unix_nano", uint64s, mNone, false},
		{4, "count", "", uint64s, mNone, false},
		{5, "sum", "", float, mNone, false},
		{6, "bucketCounts", "bucket_counts", uint64s, mNone, true},
		{7, "explicitBounds", "explicit_bounds", float, mNone, true},
		{8, "exemplars", "", object, mExemplar, true},
		{10, "flags", "", uint32s, mNone, false},
		{11, "min", "", float, mNone, false},
		{12, "max", "", float, mNone, false},
	},
	mExponentialHistogram: {
		{1, "dataPoints", "data_points", object, mExponentialHistogramDataPoint, true},
		{2, "aggregationTemporality", "aggregation_temporality", int32s, mNone, false},
	},
	mExponentialHistogramDataPoint: {
		{1, "attributes", "", object, mKeyValue, true},
		{2, "startTimeUnixNano", "start_time_unix_nano", uint64s, mNone, false},
		{3, "timeUnixNano", "time_unix_nano", uint64s, mNone, false},
		{4, "count", "", uint64s, mNone, false},
		{5, "sum", "", float, mNone, false},
		{6, "scale", "", int32s, mNone, false},
		{7, "zeroCount", "zero_count", uint64s, mNone, false},
		{8, "positive", "", object, mExponentialHistogramDataPointBuckets, false},
		{9, "negative", "", object, mExponentialHistogramDataPointBuckets, false},
		{10, "flags", "", uint32s, mNone, false},
		{11, "exemplars", "", object, mExemplar, true},
		{12, "min", "", float, mNone, false},
		{13, "max", "", float, mNone, false},
		{14, "zeroThreshold", "zero_threshold", float, mNone, false},
	},
	mExponentialHistogramDataPointBuckets: {
		{1, "offset", "", int32s, mNone, false},
		{2, "bucketCounts", "bucket_counts", uint64s, mNone, true},
	},
	mSummary: {
		{1, "dataPoints", "data_points", object, mSummaryDataPoint, true},
	},
	mSummaryDataPoint: {
		{7, "attributes", "", object, mKeyValue, true},
		{2, "startTimeUnixNano", "start_time_unix_nano", uint64s, mNone, false},
		{3, "timeUnixNano", "time_unix_nano", uint64s, mNone, false},
		{4, "count", "", uint64s, mNone, false},
		{5, "sum", "", float, mNone, false},
		{6, "quantileValues", "quantile_values", object, mSummaryDataPointValueAtQuantile, true},
		{8, "flags", "", uint32s, mNone, false},
	},
	mSummaryDataPointValueAtQuantile: {
		{1, "quantile", "", float, mNone, false},
		{2, "value", "", float, mNone, false},
	},
	mProfilesRequest: {
		{1, "resourceProfiles", "resource_profiles", object, mResourceProfiles, true},
		{2, "dictionary", "", object, mProfilesDictionary, false},
	},
	mResourceProfiles: {
		{1, "resource", "", object, mResource, false},
		{2, "scopeProfiles", "scope_profiles", object, mScopeProfiles, true},
		{3, "schemaUrl", "schema_url", text, mNone, false},
	},
	mScopeProfiles: {
		{1, "scope", "", object, mInstrumentationScope, false},
		{2, "profiles", "", object, mProfile, true},
		{3, "schemaUrl", "schema_url", text, mNone, false},
	},
	mProfile: {
		{1, "sampleType", "sample_type", object, mValueType, false},
		{2, "samples", "", object, mSample, true},
		{3, "timeUnixNano", "time_unix_nano", uint64s, mNone, false},
		{4, "durationNano", "duration_nano", uint64s, mNone, false},
		{5, "periodType", "period_type", object, mValueType, false},
		{6, "period", "", int64s, mNone, false},
		{7, "profileId", "profile_id", raw, mNone, false},
		{8, "droppedAttributesCount", "dropped_attributes_count", uint32s, mNone, false},
		{9, "originalPayloadFormat", "original_payload_format", text, mNone, false},
		{10, "originalPayload", "original_payload", raw, mNone, false},
		{11, "attributeIndices", "attribute_indices", int32s, mNone, true},
	},
	mValueType: {
		{1, "typeStrindex", "type_strindex", int32s, mNone, false},
		{2, "unitStrindex", "unit_strindex", int32s, mNone, false},
	},
	mSample: {
		{1, "stackIndex", "stack_index", int32s, mNone, false},
		{2, "attributeIndices", "attribute_indices", int32s, mNone, true},
		{3, "linkIndex", "link_index", int32s, mNone, false},
		{4, "values", "", int64s, mNone, true},
		{5, "timestampsUnixNano", "timestamps_unix_nano", uint64s, mNone, true},
	},
	mProfilesDictionary: {
		{1, "mappingTable", "mapping_table", object, mMapping, true},
		{2, "locationTable", "location_table", object, mLocation, true},
		{3, "functionTable", "function_table", object, mFunction, true},
		{4, "linkTable", "link_table", object, mLink, true},
		{5, "stringTable", "string_table", text, mNone, true},
		{6, "attributeTable", "attribute_table", object, mKeyValueAndUnit, true},
		{7, "stackTable", "stack_table", object, mStack, true},
	},
	mMapping: {
		{1, "memoryStart", "memory_start", uint64s, mNone, false},
		{2, "memoryLimit", "memory_limit", uint64s, mNone, false},
		{3, "fileOffset", "file_offset", uint64s, mNone, false},
		{4, "filenameStrindex", "filename_strindex", int32s, mNone, false},
		{5, "attributeIndices", "attribute_indices", int32s, mNone, true},
	},
	mLocation: {
		{1, "mappingIndex", "mapping_index", int32s, mNone, false},
		{2, "address", "", uint64s, mNone, false},
		{3, "lines", "", object, mLine, true},
		{4, "attributeIndices", "attribute_indices", int32s, mNone, true},
	},
	mLine: {
		{1, "functionIndex", "function_index", int32s, mNone, false},
		{2, "line", "", int64s, mNone, false},
		{3, "column", "", int64s, mNone, false},
	},
	mFunction: {
		{1, "nameStrindex", "name_strindex", int32s, mNone, false},
		{2, "systemNameStrindex", "system_name_strindex", int32s, mNone, false},
		{3, "filenameStrindex", "filename_strindex", int32s, mNone, false},
		{4, "startLine", "start_line", int64s, mNone, false},
	},
	mLink: {
		{1, "traceId", "trace_id", raw, mNone, false},
		{2, "spanId", "span_id", raw, mNone, false},
	},
	mKeyValueAndUnit: {
		{1, "keyStrindex", "key_strindex", int32s, mNone, false},
		{2, "value", "", object, mAnyValue, false},
		{3, "unitStrindex", "unit_strindex", int32s, mNone, false},
	},
	mStack: {
		{1, "locationIndices", "location_indices", int32s, mNone, true},
	},
}
