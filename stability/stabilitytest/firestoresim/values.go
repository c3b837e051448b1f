package firestoresim

import (
	"bytes"
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

const (
	maxDocument  = 1 << 20
	maxValue     = maxDocument - 89 // of one string or bytes field
	maxFieldName = 1500
	maxDepth     = 20
)

type fields = map[string]*pb.Value

// checkFields validates fields, and cuts timestamps to microseconds in place:
// they come from a request that nobody else holds.
func checkFields(fs fields, depth int) error {
	for name, v := range fs {
		switch {
		case name == "":
			return invalid("a field name is empty")
		case len(name) > maxFieldName, depth > 0 && len(name) == maxFieldName:
			return invalid("a field name has %d bytes, more than %d", len(name), maxFieldName)
		case reserved(name):
			return invalid("the field name %q is reserved", name)
		}
		if err := checkValue(v, depth); err != nil {
			return err
		}
	}
	return nil
}

func checkValue(v *pb.Value, depth int) error {
	switch t := v.GetValueType().(type) {
	case *pb.Value_NullValue, *pb.Value_BooleanValue, *pb.Value_IntegerValue, *pb.Value_DoubleValue:
	case *pb.Value_StringValue:
		if len(t.StringValue) > maxValue {
			return invalid("a string has %d bytes, more than %d", len(t.StringValue), maxValue)
		}
	case *pb.Value_BytesValue:
		if len(t.BytesValue) > maxValue {
			return invalid("a bytes value has %d bytes, more than %d", len(t.BytesValue), maxValue)
		}
	case *pb.Value_TimestampValue:
		ts := t.TimestampValue
		if ts.CheckValid() != nil {
			return invalid("a timestamp is out of range")
		}
		ts.Nanos -= ts.Nanos % 1000
	case *pb.Value_ReferenceValue:
		_, path, err := splitDatabase(t.ReferenceValue)
		if err != nil {
			return err
		}
		return checkPath(path, t.ReferenceValue, false)
	case *pb.Value_GeoPointValue:
		lat, lng := t.GeoPointValue.GetLatitude(), t.GeoPointValue.GetLongitude()
		if !(lat >= -90 && lat <= 90 && lng >= -180 && lng <= 180) {
			return invalid("a geographical point is out of range")
		}
	case *pb.Value_ArrayValue:
		if depth >= maxDepth {
			return invalid("a value is nested more than %d deep", maxDepth)
		}
		for _, e := range t.ArrayValue.GetValues() {
			if _, nested := e.GetValueType().(*pb.Value_ArrayValue); nested {
				return invalid("an array is directly in an array")
			}
			if err := checkValue(e, depth+1); err != nil {
				return err
			}
		}
	case *pb.Value_MapValue:
		if depth >= maxDepth {
			return invalid("a value is nested more than %d deep", maxDepth)
		}
		return checkFields(t.MapValue.GetFields(), depth+1)
	case nil:
		return invalid("a value has no type")
	default:
		return unimplemented("a value of a pipeline")
	}
	return nil
}

// documentSize is a document's size by the public rules.
func documentSize(path string, fs fields) int { return pathSize(path) + 32 + fieldsSize(fs) }

func pathSize(path string) int { return len(path) + 1 + 16 }

func fieldsSize(fs fields) int {
	n := 0
	for name, v := range fs {
		n += len(name) + 1 + valueSize(v)
	}
	return n
}

func valueSize(v *pb.Value) int {
	switch t := v.GetValueType().(type) {
	case *pb.Value_StringValue:
		return len(t.StringValue) + 1
	case *pb.Value_BytesValue:
		return len(t.BytesValue)
	case *pb.Value_IntegerValue, *pb.Value_DoubleValue, *pb.Value_TimestampValue:
		return 8
	case *pb.Value_GeoPointValue:
		return 16
	case *pb.Value_ReferenceValue:
		_, path, _ := splitDatabase(t.ReferenceValue)
		return pathSize(path)
	case *pb.Value_ArrayValue:
		n := 0
		for _, e := range t.ArrayValue.GetValues() {
			n += valueSize(e)
		}
		return n
	case *pb.Value_MapValue:
		return fieldsSize(t.MapValue.GetFields())
	}
	return 1
}

// typeOrder is the order of values of different types.
func typeOrder(v *pb.Value) int {
	switch v.GetValueType().(type) {
	case *pb.Value_NullValue:
		return 0
	case *pb.Value_BooleanValue:
		return 1
	case *pb.Value_IntegerValue, *pb.Value_DoubleValue:
		return 2
	case *pb.Value_TimestampValue:
		return 3
	case *pb.Value_StringValue:
		return 4
	case *pb.Value_BytesValue:
		return 5
	case *pb.Value_ReferenceValue:
		return 6
	case *pb.Value_GeoPointValue:
		return 7
	case *pb.Value_ArrayValue:
		return 8
	case *pb.Value_MapValue:
		return 9
	}
	return -1
}

func compareValues(a, b *pb.Value) int {
	if x, y := typeOrder(a), typeOrder(b); x != y {
		return cmp.Compare(x, y)
	}
	switch a.GetValueType().(type) {
	case *pb.Value_BooleanValue:
		if a.GetBooleanValue() == b.GetBooleanValue() {
			return 0
		}
		if b.GetBooleanValue() {
			return -1
		}
		return 1
	case *pb.Value_IntegerValue, *pb.Value_DoubleValue:
		return compareNumbers(a, b)
	case *pb.Value_TimestampValue:
		x, y := a.GetTimestampValue(), b.GetTimestampValue()
		return cmp.Or(cmp.Compare(x.GetSeconds(), y.GetSeconds()), cmp.Compare(x.GetNanos(), y.GetNanos()))
	case *pb.Value_StringValue:
		return strings.Compare(a.GetStringValue(), b.GetStringValue())
	case *pb.Value_BytesValue:
		return bytes.Compare(a.GetBytesValue(), b.GetBytesValue())
	case *pb.Value_ReferenceValue:
		return comparePaths(a.GetReferenceValue(), b.GetReferenceValue())
	case *pb.Value_GeoPointValue:
		x, y := a.GetGeoPointValue(), b.GetGeoPointValue()
		return cmp.Or(cmp.Compare(x.GetLatitude(), y.GetLatitude()), cmp.Compare(x.GetLongitude(), y.GetLongitude()))
	case *pb.Value_ArrayValue:
		return slices.CompareFunc(a.GetArrayValue().GetValues(), b.GetArrayValue().GetValues(), compareValues)
	case *pb.Value_MapValue:
		x, y := a.GetMapValue().GetFields(), b.GetMapValue().GetFields()
		xs, ys := slices.Sorted(maps.Keys(x)), slices.Sorted(maps.Keys(y))
		for i := range min(len(xs), len(ys)) {
			if c := cmp.Or(strings.Compare(xs[i], ys[i]), compareValues(x[xs[i]], y[ys[i]])); c != 0 {
				return c
			}
		}
		return cmp.Compare(len(xs), len(ys))
	}
	return 0
}

// compareNumbers orders NaN first and compares integers with doubles exactly.
func compareNumbers(a, b *pb.Value) int {
	x, xInt := a.GetValueType().(*pb.Value_IntegerValue)
	y, yInt := b.GetValueType().(*pb.Value_IntegerValue)
	switch {
	case xInt && yInt:
		return cmp.Compare(x.IntegerValue, y.IntegerValue)
	case xInt:
		return compareIntDouble(x.IntegerValue, b.GetDoubleValue())
	case yInt:
		return -compareIntDouble(y.IntegerValue, a.GetDoubleValue())
	}
	return cmp.Compare(a.GetDoubleValue(), b.GetDoubleValue())
}

func compareIntDouble(n int64, d float64) int {
	switch {
	case math.IsNaN(d), d < -(1 << 63):
		return 1
	case d >= 1<<63:
		return -1
	}
	if c := cmp.Compare(n, int64(d)); c != 0 {
		return c
	}
	return cmp.Compare(0, d-math.Trunc(d))
}

func isNaN(v *pb.Value) bool {
	d, ok := v.GetValueType().(*pb.Value_DoubleValue)
	return ok && math.IsNaN(d.DoubleValue)
}

func isNull(v *pb.Value) bool {
	_, ok := v.GetValueType().(*pb.Value_NullValue)
	return ok
}

// lookup finds a nested field.
func lookup(fs fields, path []string) (*pb.Value, bool) {
	v, ok := fs[path[0]]
	if !ok || len(path) == 1 {
		return v, ok
	}
	m, ok := v.GetValueType().(*pb.Value_MapValue)
	if !ok {
		return nil, false
	}
	return lookup(m.MapValue.GetFields(), path[1:])
}

// withField is fs with a nested field set, or deleted if v is nil. It copies
// what it changes: stored documents are never modified.
func withField(fs fields, path []string, v *pb.Value) fields {
	name := path[0]
	if len(path) == 1 {
		if _, ok := fs[name]; v == nil && !ok {
			return fs
		}
		out := cloneFields(fs)
		if v == nil {
			delete(out, name)
		} else {
			out[name] = v
		}
		return out
	}
	m, isMap := fs[name].GetValueType().(*pb.Value_MapValue)
	if !isMap && v == nil {
		return fs
	}
	var inner fields
	if isMap {
		inner = m.MapValue.GetFields()
	}
	out := cloneFields(fs)
	out[name] = &pb.Value{ValueType: &pb.Value_MapValue{MapValue: &pb.MapValue{Fields: withField(inner, path[1:], v)}}}
	return out
}

func cloneFields(fs fields) fields {
	out := make(fields, len(fs)+1)
	maps.Copy(out, fs)
	return out
}

// equalFields reports whether storing b over a changes nothing.
func equalFields(a, b fields) bool {
	return maps.EqualFunc(a, b, identical)
}

// identical is stricter than compareValues: 1 and 1.0 differ.
func identical(a, b *pb.Value) bool {
	if a == b {
		return true
	}
	switch x := a.GetValueType().(type) {
	case *pb.Value_IntegerValue:
		y, ok := b.GetValueType().(*pb.Value_IntegerValue)
		return ok && x.IntegerValue == y.IntegerValue
	case *pb.Value_DoubleValue:
		y, ok := b.GetValueType().(*pb.Value_DoubleValue)
		return ok && (math.Float64bits(x.DoubleValue) == math.Float64bits(y.DoubleValue) || isNaN(a) && isNaN(b))
	case *pb.Value_ArrayValue:
		_, ok := b.GetValueType().(*pb.Value_ArrayValue)
		return ok && slices.EqualFunc(a.GetArrayValue().GetValues(), b.GetArrayValue().GetValues(), identical)
	case *pb.Value_MapValue:
		_, ok := b.GetValueType().(*pb.Value_MapValue)
		return ok && equalFields(a.GetMapValue().GetFields(), b.GetMapValue().GetFields())
	}
	return compareValues(a, b) == 0
}
