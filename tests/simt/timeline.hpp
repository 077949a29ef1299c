// Which accesses to device memory are ordered.
//
// The fake device runs everything when it is called, in the order of the calls. A device may run
// streams in any order that events and waits of the host allow, so that order has to be asked for.
// Each stream, and the host, has a vector clock: how many operations of each stream are known
// to have finished. Two accesses to the same bytes, one of them a write, where the later call does
// not know of the earlier one end the process.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace fake {

using Clock = std::map<int, uint64_t>;  // a stream -> its operations that have finished

inline void join(Clock& into, const Clock& from) {
    for (auto [stream, tick] : from) into[stream] = std::max(into[stream], tick);
}

[[noreturn]] inline void race(const std::string& what) {
    std::fprintf(stderr, "fake device: %s\n", what.c_str());
    std::abort();
}

class Timeline {
    std::map<int, Clock> streams;
    Clock host;

public:
    // An operation is put on a stream: after all that the host has waited for.
    uint64_t enqueue(int stream) {
        join(streams[stream], host);
        return ++streams[stream][stream];
    }

    Clock now(int stream) {
        join(streams[stream], host);
        return streams[stream];
    }
    void wait(int stream, const Clock& event) { join(streams[stream], event); }

    void host_waits(const Clock& event) { join(host, event); }
    void host_waits_for_all() {
        for (auto& [stream, clock] : streams) join(host, clock);
    }
    bool host_knows(int stream, uint64_t tick) { return host[stream] >= tick; }
    bool stream_knows(int stream, int other, uint64_t tick) { return streams[stream][other] >= tick; }
};

// The accesses to an allocation that later ones could conflict with.
class Accesses {
    struct Mark {
        size_t begin, end;
        bool write;
        int stream;
        uint64_t tick;
        std::string call;
    };
    std::vector<Mark> marks;

public:
    void add(Timeline& timeline, const std::string& call, int stream, uint64_t tick, size_t begin, size_t end,
             bool write) {
        for (const Mark& mark : marks) {
            bool conflict = mark.begin < end && begin < mark.end && (mark.write || write);
            if (conflict && !timeline.stream_knows(stream, mark.stream, mark.tick))
                race(call + " on stream " + std::to_string(stream) + (write ? " writes" : " reads") +
                     " what " + mark.call + " on stream " + std::to_string(mark.stream) +
                     (mark.write ? " writes" : " reads") + ", without waiting for it");
        }
        // Whoever knows of this access knows of those that it was ordered after.
        auto replaced = [&](const Mark& mark) {
            return begin <= mark.begin && mark.end <= end && (write || (!mark.write && mark.stream == stream));
        };
        marks.erase(std::remove_if(marks.begin(), marks.end(), replaced), marks.end());
        marks.push_back({begin, end, write, stream, tick, call});
    }
};

}  // namespace fake
