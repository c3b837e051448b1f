package firestoresim

import (
	"slices"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

const (
	maxIn           = 30
	maxNotIn        = 10
	maxDisjunctions = 30
)

type filter interface{ match(d *document) bool }

type composite struct {
	or      bool
	filters []filter
}

func (c composite) match(d *document) bool {
	for _, f := range c.filters {
		if f.match(d) == c.or {
			return c.or
		}
	}
	return !c.or
}

// fieldFilter compares a field, or the name if path is nil.
type fieldFilter struct {
	db   string
	path []string
	test func(v *pb.Value) bool
}

func (f fieldFilter) match(d *document) bool {
	if f.path == nil {
		return f.test(&pb.Value{ValueType: &pb.Value_ReferenceValue{ReferenceValue: f.db + "/documents/" + d.path}})
	}
	v, ok := lookup(d.fields, f.path)
	return ok && f.test(v)
}

// parseFilter adds the fields of inequalities to bounds.
func (q *query) parseFilter(f *pb.StructuredQuery_Filter, bounds *[]string) (filter, error) {
	if f == nil {
		return nil, nil
	}
	if disjunctions(f) > maxDisjunctions {
		return nil, invalid("a query has more than %d disjunctions", maxDisjunctions)
	}
	return q.parseOne(f, bounds)
}

func (q *query) parseOne(f *pb.StructuredQuery_Filter, bounds *[]string) (filter, error) {
	switch t := f.GetFilterType().(type) {
	case *pb.StructuredQuery_Filter_CompositeFilter:
		op := t.CompositeFilter.GetOp()
		c := composite{or: op == pb.StructuredQuery_CompositeFilter_OR}
		if !c.or && op != pb.StructuredQuery_CompositeFilter_AND {
			return nil, invalid("a composite filter has no operator")
		}
		contains := 0
		for _, one := range t.CompositeFilter.GetFilters() {
			if one.GetFieldFilter().GetOp() == pb.StructuredQuery_FieldFilter_ARRAY_CONTAINS {
				contains++
			}
			p, err := q.parseOne(one, bounds)
			if err != nil {
				return nil, err
			}
			c.filters = append(c.filters, p)
		}
		if !c.or && contains > 1 {
			return nil, invalid("a conjunction has more than one ARRAY_CONTAINS")
		}
		if c.or && len(c.filters) == 0 {
			c.or = false
		}
		return c, nil
	case *pb.StructuredQuery_Filter_UnaryFilter:
		return q.parseUnary(t.UnaryFilter, bounds)
	case *pb.StructuredQuery_Filter_FieldFilter:
		return q.parseField(t.FieldFilter, bounds)
	}
	return nil, invalid("a filter has no type")
}

// disjunctions counts the alternatives of the filter in normal form.
func disjunctions(f *pb.StructuredQuery_Filter) int {
	switch t := f.GetFilterType().(type) {
	case *pb.StructuredQuery_Filter_CompositeFilter:
		n := 1
		if t.CompositeFilter.GetOp() == pb.StructuredQuery_CompositeFilter_OR {
			n = 0
		}
		for _, one := range t.CompositeFilter.GetFilters() {
			if t.CompositeFilter.GetOp() == pb.StructuredQuery_CompositeFilter_OR {
				n += disjunctions(one)
			} else {
				n *= disjunctions(one)
			}
			n = min(n, maxDisjunctions+1) // no overflow
		}
		return max(n, 1)
	case *pb.StructuredQuery_Filter_FieldFilter:
		switch t.FieldFilter.GetOp() {
		case pb.StructuredQuery_FieldFilter_IN, pb.StructuredQuery_FieldFilter_ARRAY_CONTAINS_ANY:
			return max(len(t.FieldFilter.GetValue().GetArrayValue().GetValues()), 1)
		}
	}
	return 1
}

func (q *query) parseUnary(u *pb.StructuredQuery_UnaryFilter, bounds *[]string) (filter, error) {
	path, err := queryField(u.GetField())
	if err != nil {
		return nil, err
	}
	if path == nil {
		return nil, invalid("__name__ is never null and never NaN")
	}
	f := fieldFilter{path: path}
	switch u.GetOp() {
	case pb.StructuredQuery_UnaryFilter_IS_NULL:
		f.test = isNull
		return f, nil
	case pb.StructuredQuery_UnaryFilter_IS_NAN:
		f.test = isNaN
		return f, nil
	case pb.StructuredQuery_UnaryFilter_IS_NOT_NULL:
		f.test = func(v *pb.Value) bool { return !isNull(v) }
	case pb.StructuredQuery_UnaryFilter_IS_NOT_NAN:
		f.test = func(v *pb.Value) bool { return !isNull(v) && !isNaN(v) }
	default:
		return nil, invalid("a unary filter has no operator")
	}
	*bounds = append(*bounds, u.GetField().GetFieldPath())
	return f, nil
}

func (q *query) parseField(ff *pb.StructuredQuery_FieldFilter, bounds *[]string) (filter, error) {
	path, err := queryField(ff.GetField())
	if err != nil {
		return nil, err
	}
	f := fieldFilter{db: q.db, path: path}
	want, op := ff.GetValue(), ff.GetOp()
	list := want.GetArrayValue().GetValues()
	operands := []*pb.Value{want}
	switch op {
	case pb.StructuredQuery_FieldFilter_IN, pb.StructuredQuery_FieldFilter_NOT_IN, pb.StructuredQuery_FieldFilter_ARRAY_CONTAINS_ANY:
		limit := maxIn
		if op == pb.StructuredQuery_FieldFilter_NOT_IN {
			limit = maxNotIn
		}
		if len(list) == 0 || len(list) > limit {
			return nil, invalid("%v needs an array of 1 to %d values", op, limit)
		}
		operands = list
	}
	for _, v := range operands {
		if path == nil {
			if op == pb.StructuredQuery_FieldFilter_ARRAY_CONTAINS || op == pb.StructuredQuery_FieldFilter_ARRAY_CONTAINS_ANY {
				return nil, invalid("__name__ is no array")
			}
			if err := q.checkName(v); err != nil {
				return nil, err
			}
		}
		if err := checkValue(v, 0); err != nil {
			return nil, err
		}
	}
	// null and NaN are equal to nothing here: there are unary filters for them.
	equal := func(v, w *pb.Value) bool { return !isNull(w) && !isNaN(w) && compareValues(v, w) == 0 }
	among := func(v *pb.Value) bool {
		return slices.ContainsFunc(list, func(w *pb.Value) bool { return equal(v, w) })
	}
	comparable := func(v *pb.Value) bool {
		return typeOrder(v) == typeOrder(want) && !isNull(want) && !isNaN(want) && !isNaN(v)
	}
	inequality := true
	switch op {
	case pb.StructuredQuery_FieldFilter_LESS_THAN:
		f.test = func(v *pb.Value) bool { return comparable(v) && compareValues(v, want) < 0 }
	case pb.StructuredQuery_FieldFilter_LESS_THAN_OR_EQUAL:
		f.test = func(v *pb.Value) bool { return comparable(v) && compareValues(v, want) <= 0 }
	case pb.StructuredQuery_FieldFilter_GREATER_THAN:
		f.test = func(v *pb.Value) bool { return comparable(v) && compareValues(v, want) > 0 }
	case pb.StructuredQuery_FieldFilter_GREATER_THAN_OR_EQUAL:
		f.test = func(v *pb.Value) bool { return comparable(v) && compareValues(v, want) >= 0 }
	case pb.StructuredQuery_FieldFilter_NOT_EQUAL:
		f.test = func(v *pb.Value) bool { return !isNull(v) && !isNull(want) && !equal(v, want) }
	case pb.StructuredQuery_FieldFilter_NOT_IN:
		none := slices.ContainsFunc(list, isNull)
		f.test = func(v *pb.Value) bool { return !none && !isNull(v) && !among(v) }
	default:
		inequality = false
	}
	if inequality {
		*bounds = append(*bounds, ff.GetField().GetFieldPath())
		return f, nil
	}
	switch op {
	case pb.StructuredQuery_FieldFilter_EQUAL:
		f.test = func(v *pb.Value) bool { return equal(v, want) }
	case pb.StructuredQuery_FieldFilter_IN:
		f.test = among
	case pb.StructuredQuery_FieldFilter_ARRAY_CONTAINS:
		f.test = func(v *pb.Value) bool {
			return slices.ContainsFunc(v.GetArrayValue().GetValues(), func(e *pb.Value) bool { return equal(e, want) })
		}
	case pb.StructuredQuery_FieldFilter_ARRAY_CONTAINS_ANY:
		f.test = func(v *pb.Value) bool { return slices.ContainsFunc(v.GetArrayValue().GetValues(), among) }
	default:
		return nil, invalid("a filter has no operator")
	}
	return f, nil
}
