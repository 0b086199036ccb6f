// SPDX-License-Identifier: Apache-2.0

//! Bytes that deflate as class files do, to about 45 % of their size.

use slipway_tests::chaos::random::Random;

/// Words of constant pools.
const WORDS: [&str; 32] = [
    "java/lang/Object",
    "java/lang/String",
    "<init>",
    "()V",
    "Code",
    "LineNumberTable",
    "LocalVariableTable",
    "this",
    "Ljava/lang/String;",
    "java/util/List",
    "java/util/Map",
    "get",
    "put",
    "(Ljava/lang/Object;)Ljava/lang/Object;",
    "SourceFile",
    "RuntimeVisibleAnnotations",
    "org/springframework/context/ApplicationContext",
    "org/springframework/beans/factory/Bean",
    "Lorg/springframework/stereotype/Service;",
    "java/lang/IllegalStateException",
    "toString",
    "hashCode",
    "equals",
    "(Ljava/lang/Object;)Z",
    "StackMapTable",
    "Exceptions",
    "Signature",
    "InnerClasses",
    "java/util/function/Function",
    "makeConcatWithConstants",
    "BootstrapMethods",
    "java/lang/invoke/MethodHandles$Lookup",
];
/// The seed of sizes.
const SIZES: u64 = 0x512e;
/// The length of the text that repeats; deflate looks back 32 KiB.
const DICTIONARY: usize = 8192;

/// Draws bytes: in turns some that do not compress and some that were drawn before.
#[derive(Debug, Clone)]
pub(super) struct Content {
    random: Random,
    dictionary: Vec<u8>,
}

impl Content {
    pub(super) fn new() -> Self {
        let mut random = Random::new(0);
        let mut dictionary = Vec::with_capacity(DICTIONARY + 64);
        while dictionary.len() < DICTIONARY {
            let word = random.pick(&WORDS);
            dictionary.extend([1, 0, u8::try_from(word.len()).expect("a short word")]);
            dictionary.extend(word.as_bytes());
        }
        Self { random, dictionary }
    }

    /// Draws from a seed from now on.
    pub(super) fn seed(&mut self, seed: u64, part: u64) {
        self.random = Random::of_part(seed, part);
    }

    /// Returns a size from the first to the last, both included. It depends on the part alone, so
    /// that inputs of all seeds are equally large.
    pub(super) fn size(&self, part: u64, first: u64, last: u64) -> usize {
        let size = Random::of_part(SIZES, part).between(first, last);
        usize::try_from(size).expect("a small number")
    }

    /// Appends as many bytes as wanted.
    pub(super) fn fill(&mut self, bytes: &mut Vec<u8>, length: usize) {
        let end = bytes.len() + length;
        bytes.reserve(length + 256);
        while bytes.len() < end {
            for _ in 0..self.random.between(2, 9) {
                bytes.extend(self.random.draw().to_le_bytes());
            }
            let repeated = self.random.index(160) + 10;
            let from = self.random.index(self.dictionary.len() - repeated);
            bytes.extend(&self.dictionary[from..from + repeated]);
        }
        bytes.truncate(end);
    }

    /// Makes a class file for Java 17, as far as its header shows.
    pub(super) fn class(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 61, 0, 1];
        self.fill(&mut bytes, length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::zip::deflate;
    use super::*;

    #[test]
    fn it_deflates_as_class_files_do() {
        let mut content = Content::new();
        content.seed(1, 1);
        let mut bytes = Vec::new();
        content.fill(&mut bytes, 1 << 20);
        assert_eq!(bytes.len(), 1 << 20);
        let percent = deflate(&bytes).len() * 100 / bytes.len();
        assert!((40..=50).contains(&percent), "{percent} %");
    }
}
