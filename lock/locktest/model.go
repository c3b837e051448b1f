package locktest

import (
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"
)

// state is one lock as the contract describes it. When the lease ends is known
// only as an interval, since a call happens somewhere between its beginning and
// its end; a judgement is wrong only if no moment in the interval allows it.
type state struct {
	holder, nonce    string
	epoch            int64
	earliest, latest int64 // end of the lease
}

func model(slack time.Duration) porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{state{}} },
		Step: func(s, in, out any) []any {
			next := step(s.(state), in.(input), out.(output), int64(slack))
			all := make([]any, len(next))
			for i, n := range next {
				all[i] = n
			}
			return all
		},
		DescribeOperation: describe,
	}
	return m.ToModel()
}

func step(s state, in input, out output, slack int64) []state {
	mayBeOver := out.ret >= s.earliest-slack
	mayLive := in.call < s.latest+slack
	extended := func(s state) state {
		s.earliest = in.call + int64(in.lease)
		s.latest = never
		if out.ret < never {
			s.latest = out.ret + int64(in.lease)
		}
		return s
	}
	holds := s.holder != "" && s.holder == in.held.Holder && s.epoch == in.held.Epoch
	switch in.op {
	case OpAcquire:
		return stepAcquire(s, in, out, mayBeOver, mayLive, extended)
	case OpRenew:
		switch {
		case out.unknown && holds:
			return []state{s, extended(s)}
		case out.unknown:
			return []state{s}
		case out.lost:
			var next []state
			if !holds || mayBeOver {
				next = append(next, s)
			}
			// A store that repeats a renewal whose reply was lost may have lengthened
			// the lease before, and find it over then.
			if holds && out.ret >= in.call+int64(in.lease)-slack {
				next = append(next, extended(s))
			}
			return next
		case !out.lost && holds && out.rec.Epoch == s.epoch:
			return []state{extended(s)}
		}
	case OpRelease:
		free := state{nonce: s.nonce, epoch: s.epoch}
		switch {
		case !holds:
			return []state{s}
		case out.unknown:
			return []state{s, free}
		}
		return []state{free}
	case OpLoad:
		if out.unknown || out.rec.Epoch == s.epoch && (out.rec.Holder == s.holder || out.rec.Holder == "" && mayBeOver) {
			return []state{s}
		}
	}
	return nil
}

func stepAcquire(s state, in input, out output, mayBeOver, mayLive bool, extended func(state) state) []state {
	repeated := in.nonce == s.nonce && s.epoch > 0
	fresh := extended(state{holder: in.holder, nonce: in.nonce, epoch: s.epoch + 1})
	mayGrant := !repeated && (s.holder == "" || s.holder == in.holder || mayBeOver)
	switch {
	case out.unknown:
		next := []state{s}
		if mayGrant {
			next = append(next, fresh)
		}
		if repeated && s.holder == in.holder {
			next = append(next, extended(s)) // a repetition may renew, or not
		}
		return next
	case out.granted && repeated && s.holder == in.holder && out.rec.Epoch == s.epoch:
		return []state{s, extended(s)}
	case out.granted && mayGrant && out.rec.Epoch == fresh.epoch:
		return []state{fresh}
	case out.granted:
		return nil
	case repeated && s.holder == "": // its term was released
		return []state{s}
	case !repeated && s.holder != "" && s.holder != in.holder && mayLive:
		return []state{s}
	}
	return nil
}

func describe(in, out any) string {
	i, o := in.(input), out.(output)
	answer := fmt.Sprintf("%q epoch %d", o.rec.Holder, o.rec.Epoch)
	switch {
	case o.unknown:
		answer = "?"
	case o.lost:
		answer = "lost"
	case i.op == OpAcquire && o.granted:
		answer = fmt.Sprintf("granted epoch %d", o.rec.Epoch)
	case i.op == OpAcquire:
		answer = "refused, held by " + answer
	}
	if i.op == OpAcquire {
		return fmt.Sprintf("acquire(%q, %.6s): %s", i.holder, i.nonce, answer)
	}
	return fmt.Sprintf("%s(%q epoch %d): %s", i.op, i.held.Holder, i.held.Epoch, answer)
}
